//! One container from creation to removal.
//!
//! Order: create, check what Docker made, grant, attach, start. Attaching first means that not
//! a byte of the server is lost; granting before that means that the kernel knows the
//! container before its first process, which Podman makes when it is attached to. A task watches each container and removes it however it
//! ends; the token in `stdout` ends it when the owner lets go.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HealthConfig, Mount};
use bollard::query_parameters as query;
use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::docker::{self, Engine};
use super::egress::{self, Gate, Place};
use super::error::{cause, is_away, status};
use super::flavour::Flavour;
use super::{
    Cage, CageExit, CageSpec, LABEL_INSTANCE, LABEL_PURPOSE, LABEL_SERVER, Sandbox, SandboxError, StderrLog, hardening,
    init, mounts, proof,
};

/// How long a server may take to end by itself once its input has ended.
const LEAVE: Duration = Duration::from_millis(250);
/// Longest that a cage's first program may take to read what it is told.
const BEGIN: Duration = Duration::from_secs(30);
/// Seconds between asking a server to end (SIGTERM) and killing it.
const GRACE_SECS: i32 = 2;
/// Longest pause between two tries to remove a container; each is twice the one before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The exit code that a SIGKILL leaves, the memory limit's among them.
const KILLED: i64 = 137;

pub(super) async fn start(sandbox: &Sandbox, spec: &CageSpec) -> Result<Cage, SandboxError> {
    let engine = sandbox.engine().await?;
    let open = engine.open_walls();
    if !open.is_empty() {
        return Err(SandboxError::Hardening { server: spec.server.clone(), missing: open.join(", ") });
    }
    let places = egress::places(&spec.egress).map_err(|cause| start_error(spec, cause))?;
    let opening = Opening::of(sandbox, engine, spec, &places).await?;
    let body = body(sandbox, engine, spec, opening.as_ref()).await?;
    let asked = body.host_config.clone().unwrap_or_default();
    let name = format!("lazaret-{}-{}-{}", sandbox.instance, container_name(&spec.server), random_suffix());
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    let created = engine.docker.create_container(Some(options), body).await.map_err(|e| match status(&e) {
        Some(404) => SandboxError::NoImage {
            action: "start",
            server: spec.server.clone(),
            image: spec.image_id.clone(),
            hint: "review the server again, which builds it anew",
        },
        _ => {
            if is_away(&e) {
                // It may have been made, and only the answer have been lost.
                tokio::spawn(remove_later(engine.docker.clone(), name.clone()));
            }
            refused(engine, spec, &e)
        }
    })?;
    // From here on every way out removes the container.
    let mut unstarted = Unstarted::new(&engine.docker, &created.id);

    let made = engine.docker.inspect_container(&created.id, None).await.map_err(|e| refused(engine, spec, &e))?;
    let verdict = hardening::verify(&made, &asked, &sandbox.config, engine.flavour);
    if !verdict.missing.is_empty() {
        let missing = verdict.missing.join(", ");
        unstarted.remove().await;
        return Err(SandboxError::Hardening { server: spec.server.clone(), missing });
    }
    let mut warnings = engine.warnings();
    warnings.extend(verdict.warnings);

    if let Some(grant) = sandbox.launch_grant() {
        grant.grant(&created.id);
    }
    let options =
        query::AttachContainerOptionsBuilder::new().stream(true).stdin(true).stdout(true).stderr(true).build();
    let mut attached =
        engine.docker.attach_container(&created.id, Some(options)).await.map_err(|e| refused(engine, spec, &e))?;
    if let Err(e) = engine.docker.start_container(&created.id, None).await {
        unstarted.remove().await;
        return Err(refused(engine, spec, &e));
    }
    let gate = match &opening {
        Some(opening) => {
            match opening.complete(sandbox, engine, spec, &created.id, places, &mut attached.input).await {
                Ok(gate) => gate,
                Err(e) => {
                    unstarted.remove().await;
                    return Err(e);
                }
            }
        }
        None => None,
    };
    unstarted.started();

    let secrets = spec.env.iter().filter(|(name, _)| spec.secrets.contains(*name));
    let stderr = StderrLog::hiding(secrets.map(|(name, value)| (name.clone(), value.clone())));
    let owner = CancellationToken::new();
    let (exited, exit) = watch::channel(None);
    tokio::spawn(watch_over(engine.docker.clone(), created.id.clone(), owner.clone(), exited, gate));
    let stdout =
        Stdout { frames: attached.output, rest: Bytes::new(), stderr: stderr.clone(), _owner: owner.drop_guard() };
    Ok(Cage {
        container_id: created.id,
        stdin: Box::new(Stdin(attached.input)),
        stdout: Box::new(stdout),
        stderr,
        warnings,
        exit,
    })
}

/// What a cage gets between its start and its server's first instruction.
struct Opening {
    mount: Mount,
    hosts: Vec<String>,
    /// For the cage's first program.
    message: Vec<u8>,
}

impl Opening {
    /// `None` where the server has neither environment nor egress, and the engine's own word on the cage is whole and
    /// root's: it is the first program itself.
    async fn of(
        sandbox: &Sandbox,
        engine: &Engine,
        spec: &CageSpec,
        places: &[Place],
    ) -> Result<Option<Self>, SandboxError> {
        let enough = engine.flavour == Flavour::Docker && engine.rootless.is_none();
        if spec.env.is_empty() && places.is_empty() && enough {
            return Ok(None);
        }
        let program = sandbox
            .init(engine)
            .await
            .map_err(|e| start_error(spec, format!("the cage's first program cannot be put in place: {e}")))?;
        Ok(Some(Self {
            mount: init::mount(program),
            hosts: egress::hosts(places),
            message: init::message(&spec.env).map_err(|cause| start_error(spec, cause))?,
        }))
    }

    /// Opens what is granted, then lets the server begin.
    async fn complete(
        &self,
        sandbox: &Sandbox,
        engine: &Engine,
        spec: &CageSpec,
        id: &str,
        places: Vec<Place>,
        input: &mut Pin<Box<dyn AsyncWrite + Send>>,
    ) -> Result<Option<Gate>, SandboxError> {
        let container = engine.docker.inspect_container(id, None).await.map_err(|e| refused(engine, spec, &e))?;
        let pid = container.state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            return Err(start_error(spec, "its first program ended before the server was let in".into()));
        };
        let mut missing = proof::missing(pid, id);
        if engine.rootless.is_some() {
            missing.extend(proof::unlimited(pid, sandbox.config.memory_bytes, sandbox.config.pids));
        }
        if !missing.is_empty() {
            return Err(SandboxError::Hardening { server: spec.server.clone(), missing: missing.join(", ") });
        }
        let gate = if places.is_empty() {
            None
        } else {
            let opened = egress::open(&spec.server, id, pid, places, sandbox.egress_witness()).await;
            Some(opened.map_err(|cause| start_error(spec, format!("its egress cannot be opened: {cause}")))?)
        };
        let begin = async {
            input.write_all(&self.message).await?;
            input.flush().await
        };
        match tokio::time::timeout(BEGIN, begin).await {
            Ok(Ok(())) => Ok(gate),
            Ok(Err(e)) => Err(start_error(spec, format!("it did not take its environment: {e}"))),
            Err(_) => Err(start_error(spec, format!("it did not take its environment within {} s", BEGIN.as_secs()))),
        }
    }
}

async fn body(
    sandbox: &Sandbox,
    engine: &Engine,
    spec: &CageSpec,
    opening: Option<&Opening>,
) -> Result<ContainerCreateBody, SandboxError> {
    let Some((program, args)) = spec.argv.split_first() else {
        return Err(start_error(spec, "its command is empty".into()));
    };
    if let Some(name) = spec.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(start_error(spec, format!("{name:?} cannot be the name of an environment variable")));
    }
    let mut mounts = mounts::resolve(&spec.server, &spec.mounts)?;
    let image = engine.docker.inspect_image(&spec.image_id).await.map_err(|e| match status(&e) {
        Some(404) => SandboxError::NoImage {
            action: "start",
            server: spec.server.clone(),
            image: spec.image_id.clone(),
            hint: "review the server again, which builds it anew",
        },
        _ => refused(engine, spec, &e),
    })?;
    // A name could come to mean another image between review and start.
    if image.id.map(docker::image_id).as_deref() != Some(spec.image_id.as_str()) {
        return Err(start_error(spec, format!("{} is not an image id", spec.image_id)));
    }
    let volumes = image.config.and_then(|config| config.volumes).unwrap_or_default();
    // Nothing of the definition's: whoever may ask Docker could read it there.
    let env = vec!["HOME=/tmp".to_owned()];
    let (entrypoint, command) = match opening {
        Some(opening) => {
            mounts.push(opening.mount.clone());
            (init::PATH.to_owned(), spec.argv.clone())
        }
        None => (program.clone(), args.to_vec()),
    };
    let filter = match engine.filters_calls() {
        true => Some(
            sandbox
                .filter(engine)
                .await
                .map_err(|e| start_error(spec, format!("its list of system calls cannot be put in place: {e}")))?,
        ),
        // An engine that cannot filter says so, and takes no filter.
        false => None,
    };
    let mut host_config = hardening::cage(&sandbox.config, engine, &sandbox.instance, mounts, &volumes, filter);
    host_config.extra_hosts = opening.map(|opening| opening.hosts.clone()).filter(|hosts| !hosts.is_empty());
    Ok(ContainerCreateBody {
        image: Some(spec.image_id.clone()),
        // Both are set, so that nothing of the image's own command is left.
        entrypoint: Some(vec![entrypoint]),
        cmd: Some(command),
        env: Some(env),
        user: Some(hardening::USER.into()),
        hostname: Some("cage".into()),
        working_dir: Some("/tmp".into()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        tty: Some(false),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        labels: Some(labels(&sandbox.instance, &spec.server, spec.purpose.as_str())),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

fn refused(engine: &Engine, spec: &CageSpec, error: &bollard::errors::Error) -> SandboxError {
    engine.error(error, |cause| start_error(spec, cause))
}

fn start_error(spec: &CageSpec, cause: String) -> SandboxError {
    let hint = "see `lazaret server show` for its definition, and review it again if that changed";
    SandboxError::Start { server: spec.server.clone(), cause, hint }
}

pub(super) fn labels(instance: &str, server: &str, purpose: &str) -> HashMap<String, String> {
    [(LABEL_INSTANCE, instance), (LABEL_SERVER, server), (LABEL_PURPOSE, purpose)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

/// A server's name as a part of a container's name.
pub(super) fn container_name(server: &str) -> String {
    server.chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

pub(super) fn random_suffix() -> String {
    let mut bytes = [0u8; 4];
    // Without randomness a name may collide, and Docker then refuses it with a clear text.
    let _ = getrandom::fill(&mut bytes);
    hex::encode(bytes)
}

/// Removes a container that has not been handed to anybody, when dropped too.
pub(super) struct Unstarted {
    docker: Docker,
    id: Option<String>,
}

impl Unstarted {
    pub fn new(docker: &Docker, id: &str) -> Self {
        Self { docker: docker.clone(), id: Some(id.to_owned()) }
    }

    pub fn started(&mut self) {
        self.id = None;
    }

    pub async fn remove(&mut self) {
        if let Some(id) = &self.id {
            remove_or_log(&self.docker, id).await;
            self.id = None;
        }
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let docker = self.docker.clone();
        // Without a runtime the daemon is ending: its next sweep removes the container.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove_or_log(&docker, &id).await });
        }
    }
}

async fn remove_or_log(docker: &Docker, id: &str) {
    if let Err(error) = docker::remove(docker, id).await {
        tracing::warn!(container = docker::short(id), %error, "a container is left behind until Docker takes it");
        tokio::spawn(remove_later(docker.clone(), id.to_owned()));
    }
}

/// Waits until the container ends or its owner lets go, then removes it.
async fn watch_over(
    docker: Docker,
    id: String,
    owner: CancellationToken,
    exited: watch::Sender<Option<CageExit>>,
    gate: Option<Gate>,
) {
    let code = tokio::select! {
        code = wait(&docker, &id) => code.ok(),
        () = owner.cancelled() => None,
    };
    if let Some(gate) = gate {
        gate.close().await;
    }
    let mut exit = CageExit { code, out_of_memory: false };
    if code == Some(KILLED) {
        let state = docker.inspect_container(&id, None).await.ok().and_then(|container| container.state);
        exit.out_of_memory = state.is_some_and(|state| state.oom_killed == Some(true));
    }
    let removed = docker::remove(&docker, &id).await;
    exited.send_replace(Some(exit));
    if removed.is_err() {
        remove_later(docker, id).await;
    }
}

/// Removes a container, by id or name, as soon as Docker can: Docker itself may be restarting, which
/// is also what ends containers.
async fn remove_later(docker: Docker, container: String) {
    let mut pause = Duration::from_secs(1);
    loop {
        tokio::time::sleep(pause).await;
        let Err(error) = docker::remove(&docker, &container).await else { return };
        tracing::debug!(container, %error, "a container is left behind until Docker takes it");
        pause = (pause * 2).min(PATIENCE);
    }
}

pub(super) async fn stop(engine: &Engine, id: &str) -> Result<(), SandboxError> {
    if tokio::time::timeout(LEAVE, wait(&engine.docker, id)).await.is_err() {
        let options = query::StopContainerOptionsBuilder::new().t(GRACE_SECS).build();
        match engine.docker.stop_container(id, Some(options)).await {
            Ok(()) => {}
            Err(e) if matches!(status(&e), Some(304 | 404 | 409)) => {}
            Err(e) => {
                tracing::debug!(container = docker::short(id), cause = %cause(&e), "could not ask the container to end; killing it")
            }
        }
    }
    docker::remove(&engine.docker, id).await
}

/// The server's standard input. Dropping it ends the input: Docker holds both directions on one
/// connection, so that letting go of this half alone would leave the server waiting.
struct Stdin(Pin<Box<dyn AsyncWrite + Send>>);

impl Drop for Stdin {
    fn drop(&mut self) {
        let wake_nobody = &mut Context::from_waker(Waker::noop());
        let _ = self.0.as_mut().poll_shutdown(wake_nobody);
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}

/// The server's standard output, taken out of Docker's multiplexed stream. What stands between
/// is the server's standard error. Nothing is read ahead: a reader that waits makes the server wait.
struct Stdout {
    frames: Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
    rest: Bytes,
    stderr: StderrLog,
    _owner: DropGuard,
}

impl AsyncRead for Stdout {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.frames.as_mut().poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(LogOutput::StdOut { message })) => self.rest = message,
                Some(Ok(LogOutput::StdErr { message })) => {
                    if !self.stderr.push(&message) {
                        let flood = "it floods its standard error";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, flood)));
                    }
                }
                // Docker never echoes input, and a torn frame at the end is not the server's.
                Some(Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. })) => {}
                Some(Err(e)) => return Poll::Ready(Err(io::Error::other(cause(&e)))),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// Waits until a container has ended and returns its exit code. One that is gone is an error.
pub(super) async fn wait(docker: &Docker, id: &str) -> Result<i64, String> {
    let options = query::WaitContainerOptionsBuilder::new().condition("not-running").build();
    match Box::pin(docker.wait_container(id, Some(options))).next().await {
        Some(Ok(ended)) => Ok(ended.status_code),
        // How the client reports an exit code other than 0.
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, error })) if error.is_empty() => Ok(code),
        Some(Err(e)) => Err(cause(&e)),
        None => Err("Docker went away".into()),
    }
}
