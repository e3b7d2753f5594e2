//! The daemon: puts the rooms together, keeps them running, and takes them down in order.
//!
//! It is ready when the kernel guards, the client configs are known to it and both sockets
//! listen; only then does it say so (systemd's `READY=1` and the summary).

mod asks;
mod clients;
mod dir_watch;
mod egress;
mod endpoints;
mod memory;
mod policies;
mod running;
mod summary;
mod upgrades;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, AdmissionError, ClientWatch};
use crate::audit::{AuditError, AuditLog, Entry, Kind, Outcome};
use crate::config::{Config, Mode, Paths, Scope};
use crate::identity::measure::Digests;
use crate::identity::{AgentKey, IdentityError, Registry, TokenLimits, Tokens};
use crate::kernel::endpoints::Endpoints;
use crate::kernel::shadow::{ShadowError, ShadowSpawn, Shadows};
use crate::kernel::{Backend, Batch, EventKind, Guard, KernelError, KernelEvent, KernelSettings};
use crate::policy::{Gates, PolicyError};
use crate::proxy::{Hub, ListenError};
use crate::remote::Remotes;
use crate::sandbox::Sandbox;
use crate::search::{SearchError, SearchIndex};
use crate::store::{Recovered, Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot make the directory {path}: {source}; run the daemon as root, or name another with {flag}")]
    Directory { path: PathBuf, flag: &'static str, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Shadow(#[from] ShadowError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Api(#[from] crate::api::server::ApiError),
    #[error(
        "cannot start in mode {mode}: this kernel lets Lazaret stop nothing ({why}); run `lazaret doctor`, or start with --mode observe to use the door without the kernel's guard"
    )]
    NothingEnforced { mode: Mode, why: String },
    #[error("cannot catch the signal {name}: {source}")]
    Signal { name: &'static str, source: std::io::Error },
}

/// What `lazaret daemon` was asked for, over what the configuration says.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    pub paths: Paths,
    pub config: Config,
    pub mode: Option<Mode>,
    pub scope: Option<Scope>,
    /// Leave nothing pinned in the kernel when the daemon ends.
    pub detach_on_exit: bool,
}

/// Everything that a request can reach.
pub struct App {
    pub config: Config,
    pub paths: Paths,
    pub store: Arc<Store>,
    pub audit: Arc<AuditLog>,
    pub registry: Arc<Registry>,
    /// Of the files that clients are measured by.
    pub digests: Arc<Digests>,
    pub admission: Arc<Admission>,
    pub index: Arc<SearchIndex>,
    pub gates: Arc<Gates>,
    pub tokens: Arc<Tokens>,
    /// Where HTTP clients reach the door.
    pub http_url: Option<String>,
    pub http_address: Option<std::net::SocketAddr>,
    pub sandbox: Arc<Sandbox>,
    pub remotes: Arc<Remotes>,
    pub hub: Arc<Hub>,
    pub kernel: Arc<Guard>,
    pub shadows: Arc<Shadows>,
    pub clients: Arc<ClientWatch>,
    pub daemon_key: AgentKey,
    pub started: Timestamp,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: DaemonOptions) -> Result<(), DaemonError> {
    let DaemonOptions { paths, mut config, mode, scope, detach_on_exit } = options;
    config.kernel.mode = mode.unwrap_or(config.kernel.mode);
    config.kernel.scope = scope.unwrap_or(config.kernel.scope.clone());

    // Caught from the beginning: a stop during the start takes everything down in order too.
    let mut signals = Signals::catch()?;
    for missing in crate::kernel::protect_self() {
        tracing::warn!("the daemon cannot {missing}");
    }
    private_dir(&paths.state_dir, 0o700, "--state-dir")?;
    private_dir(&paths.run_dir, 0o755, "--run-dir")?;
    // The database's lock comes first: a second daemon must not touch anything of the first.
    let store = Arc::new(Store::open(&paths.database())?);
    let api_socket = crate::api::server::bind(&paths)?;
    let mcp_socket = crate::proxy::bind(&paths.mcp_socket())?;
    let http = config.http.listen.map(crate::proxy::http::bind).transpose()?;
    crate::proxy::http::publish(&paths.run_dir, http.as_ref())?;

    let (app, events) = build(paths, config, store, http.as_ref())?;
    let app = Arc::new(app);
    // Without a log nothing may be permitted; what was asked for the end holds for this end too.
    if let Err(e) = open_log(&app) {
        end_kernel(&app, detach_on_exit);
        return Err(e.into());
    }
    let cancel = CancellationToken::new();
    let swept = match app.sandbox.sweep().await {
        Ok(swept) => swept,
        Err(e) => {
            tracing::warn!("no server can run: {e}");
            0
        }
    };
    if swept > 0 {
        tracing::info!(containers = swept, "removed what an earlier daemon left behind");
    }

    let stock = tokio::task::spawn_blocking({
        let app = app.clone();
        move || running::take_stock(&app)
    });
    let stock = stock.await.unwrap_or_else(|e| {
        tracing::error!("what runs already was not judged: {e}");
        Vec::new()
    });
    app.kernel.settle()?;
    let mut remotes = Endpoints::default();
    remotes.learn(&app.clients.current());
    app.kernel.set_endpoints(&remotes.addresses())?;
    let door = crate::proxy::door::Door::of(&app);
    let tasks = [
        tokio::spawn(endpoints::follow(app.clone(), remotes, cancel.clone())),
        tokio::spawn(clients::follow_changes(app.clone(), cancel.clone())),
        tokio::spawn(upgrades::follow(app.kernel.clone(), cancel.clone())),
        tokio::spawn(follow_events(app.clone(), stock, events, cancel.clone())),
        tokio::spawn(running::follow_held(app.clone(), cancel.clone())),
        tokio::spawn(follow_tools(app.clone(), cancel.clone())),
        tokio::spawn(crate::identity::follow_expiry(app.registry.clone(), cancel.clone())),
        tokio::spawn(keep_rates(app.gates.clone(), cancel.clone())),
        tokio::spawn(policies::follow(app.clone(), cancel.clone())),
        tokio::spawn(asks::follow(app.clone(), cancel.clone())),
        tokio::spawn(asks::end_what_was_revoked(app.clone(), cancel.clone())),
        tokio::spawn(serve_api(app.clone(), api_socket, cancel.clone())),
        tokio::spawn(crate::proxy::serve(app.clone(), door.clone(), mcp_socket, cancel.clone())),
        tokio::spawn(crate::proxy::http::serve(app.clone(), door, http, cancel.clone())),
    ];
    summary::print(&app).await;
    notify("READY=1");
    memory::give_back();

    signals.wait_for_end(&app, &cancel).await;
    notify("STOPPING=1");
    tracing::info!("stopping: sessions end, containers are removed");
    cancel.cancel();
    app.hub.stop_all().await;
    // What is left now belongs to a review that was cut off; our cgroup goes with it.
    if let Err(e) = app.sandbox.sweep().await {
        tracing::debug!("nothing was swept at the end: {e}");
    }
    for task in tasks {
        // A task that panicked has already said so in the journal.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), task).await;
    }
    let stopped = app.audit.record(Entry::new(Kind::Admin, Outcome::Ok, "daemon").reason("the daemon stopped"));
    end_kernel(&app, detach_on_exit);
    if let Err(e) = crate::proxy::http::publish(&app.paths.run_dir, None) {
        tracing::debug!("{e}");
    }
    for socket in [app.paths.admin_socket(), app.paths.mcp_socket()] {
        if let Err(e) = std::fs::remove_file(&socket) {
            tracing::debug!(path = %socket.display(), "cannot remove the socket: {e}");
        }
    }
    stopped?;
    Ok(())
}

/// Closes what an earlier daemon left open in the log, before anything new can be in flight, and
/// writes down that this one starts and how strongly it guards.
fn open_log(app: &App) -> Result<(), AuditError> {
    let orphans = crate::audit::close_orphans(&app.audit)?;
    if orphans > 0 {
        tracing::warn!(
            calls = orphans,
            "calls of an earlier daemon have no result on record: what became of them is unknown"
        );
    }
    match app.gates.asks().restore() {
        Ok(0) => {}
        Ok(calls) => tracing::warn!(calls, "calls waited for a human when the daemon ended; they are over"),
        // Without them everything is asked anew.
        Err(e) => tracing::error!("what humans approved before could not be taken up: {e}"),
    }
    let mut detail = serde_json::json!({"version": env!("CARGO_PKG_VERSION"), "kernel": app.kernel.report()});
    let Recovered { taken_over, lost } = app.store.recovered();
    if taken_over > 0 {
        tracing::info!(writes = taken_over, "took over what an earlier daemon had written and not yet filed");
        detail["journal"] = serde_json::json!({ "taken_over": taken_over });
    }
    if lost > 0 {
        tracing::error!(
            writes = lost,
            "a power cut took writes of the last moments; later ones could not be taken over"
        );
        detail["journal"] = serde_json::json!({ "taken_over": taken_over, "lost": lost });
    }
    app.audit.record(Entry::new(Kind::Admin, Outcome::Ok, "daemon").reason("the daemon started").detail(detail))?;
    Ok(())
}

fn build(
    paths: Paths,
    config: Config,
    store: Arc<Store>,
    http: Option<&crate::proxy::http::HttpListener>,
) -> Result<(App, mpsc::Receiver<Batch>), DaemonError> {
    let audit = Arc::new(AuditLog::new(store.clone()).synced(config.audit.sync));
    let daemon_key = AgentKey::load_or_create(&paths.state_dir.join("daemon.pem"))?;
    let registry = Registry::new(store.clone(), audit.clone());
    let registry = registry.vouching(config.identity.allowed_signers.clone(), config.identity.require_vouch);
    let registry = Arc::new(registry.on_drift(config.identity.on_drift));
    let admission = Arc::new(Admission::new(store.clone(), audit.clone()));
    let index = Arc::new(SearchIndex::new());
    index.rebuild(&admission.approved_tools()?)?;
    let gates = Gates::new(registry.clone(), admission.clone(), audit.clone(), &config.rate, &paths.policy_dir)?;
    let gates = Arc::new(gates.with_asks(config.ask.clone()));
    let (guard, events) = Guard::start(KernelSettings {
        mode: config.kernel.mode,
        evidence: config.kernel.evidence.clone(),
        connect_below_clients: config.kernel.connect_below_clients,
        engines: vec![config.sandbox.docker.clone()],
        scope: config.kernel.scope.clone(),
        bpf_dir: paths.bpf_dir.clone(),
        pin: config.kernel.pin,
        trusted: trusted_executables(),
    })?;
    let report = guard.report();
    if config.kernel.mode != Mode::Observe && report.backend == Backend::ObserveOnly {
        let why = report.hooks.iter().find_map(|hook| hook.reason.clone()).unwrap_or_else(|| report.cannot.join("; "));
        return Err(DaemonError::NothingEnforced { mode: config.kernel.mode, why });
    }
    let guard = Arc::new(guard);
    let sandbox = Sandbox::new(&config.sandbox, paths.instance()).keeping_files_in(&paths.state_dir);
    sandbox.set_egress_witness(Arc::new(egress::Recorder::new(audit.clone())));
    sandbox.set_launch_grant(guard.clone());
    let sandbox = Arc::new(sandbox);
    let remotes = Arc::new(Remotes::new(store.clone()));
    let hub = Hub::new(sandbox.clone(), remotes.clone(), admission.clone(), audit.clone(), &config);
    let logs = paths.state_dir.join("logs");
    if let Err(e) = hub.keep_logs_in(&logs) {
        tracing::warn!("logs of servers are lost when the daemon ends: cannot use {}: {e}", logs.display());
    }
    let shadows = Arc::new(Shadows::new(store.clone(), audit.clone(), admission.clone(), guard.clone()));
    let clients = Arc::new(ClientWatch::start(&config.clients.homes, &config.clients.projects, &paths.run_dir)?);
    clients::teach(&clients, &shadows);
    let limits = TokenLimits { default_secs: config.http.token_secs, max_secs: config.http.max_token_secs };
    let tokens = Arc::new(Tokens::new(http.map(|http| http.url()), limits));
    let app = App {
        config,
        paths,
        store,
        audit,
        registry,
        digests: Arc::default(),
        admission,
        index,
        gates,
        tokens,
        http_url: http.map(|http| http.url()),
        http_address: http.map(|http| http.address()),
        sandbox,
        remotes,
        hub,
        kernel: guard,
        shadows,
        clients,
        daemon_key,
        started: Timestamp::now(),
    };
    Ok((app, events))
}

/// Where executables are, or may come to be, whose processes belong to the door or carry its messages: this one,
/// and Docker's.
fn trusted_executables() -> Vec<PathBuf> {
    const DOCKER: [&str; 5] = ["dockerd", "containerd", "containerd-shim-runc-v2", "containerd-shim", "runc"];
    let mut trusted: Vec<PathBuf> = std::env::current_exe().into_iter().collect();
    for dir in ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/libexec/docker", "/bin", "/sbin"] {
        trusted.extend(DOCKER.iter().map(|name| Path::new(dir).join(name)));
    }
    trusted
}

fn private_dir(path: &Path, mode: u32, flag: &'static str) -> Result<(), DaemonError> {
    let failed = |source| DaemonError::Directory { path: path.into(), flag, source };
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// The operators' socket. Without it nobody can decide anything, so its end is the daemon's end.
async fn serve_api(app: Arc<App>, socket: tokio::net::UnixListener, cancel: CancellationToken) {
    if let Err(e) = crate::api::server::serve(app, socket, cancel.clone()).await {
        tracing::error!("the admin socket failed: {e}");
        cancel.cancel();
    }
}

/// Writes down what the kernel reports, after what was found at the start. The verdict has been executed already.
async fn follow_events(
    app: Arc<App>,
    stock: Vec<KernelEvent>,
    mut batches: mpsc::Receiver<Batch>,
    cancel: CancellationToken,
) {
    write_down(&app, stock).await;
    loop {
        let mut batch = tokio::select! {
            () = cancel.cancelled() => return,
            batch = batches.recv() => match batch { Some(batch) => batch, None => return },
        };
        let events = std::mem::take(&mut batch.events);
        // What a client will start is learned at once.
        let (clients, mut events): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| event.kind == EventKind::Client);
        for event in clients {
            app.kernel.expect_servers();
            let app = app.clone();
            tokio::task::spawn_blocking(move || clients::learn_from(&app, &event));
        }
        // A client that uses the door goes around nothing.
        events.retain(|event| !event.is_use_of(app.http_address));
        write_down(&app, events).await;
        batch.written();
    }
}

/// Records, lines in the journal, and the digests of what ran.
async fn write_down(app: &Arc<App>, events: Vec<KernelEvent>) {
    if events.is_empty() {
        return;
    }
    let shadows = app.shadows.clone();
    let recorded = tokio::task::spawn_blocking(move || {
        shadows.record_all(&events).map(|recorded| -> Vec<(ShadowSpawn, KernelEvent)> {
            recorded.into_iter().map(|(shadow, event)| (shadow, event.clone())).collect()
        })
    })
    .await;
    match recorded {
        Ok(Ok(recorded)) => {
            for (shadow, event) in recorded {
                summary::announce(&shadow, app);
                let shadows = app.shadows.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(e) = shadows.measure(&shadow.id, &event) {
                        tracing::error!("the executable of shadow record {} has no digest: {e}", shadow.id);
                    }
                });
            }
        }
        Ok(Err(e)) => tracing::error!("shadow processes could not be written down: {e}"),
        Err(e) => tracing::error!("writing down shadow processes failed: {e}"),
    }
}

/// Keeps the search index equal to the approved tools.
async fn follow_tools(app: Arc<App>, cancel: CancellationToken) {
    let mut changes = app.admission.changes();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let rebuilt = tokio::task::spawn_blocking({
            let app = app.clone();
            move || -> Result<(), DaemonError> {
                app.index.rebuild(&app.admission.approved_tools()?)?;
                memory::give_back();
                Ok(())
            }
        })
        .await;
        match rebuilt {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("the search index is behind the approved tools: {e}"),
            Err(e) => tracing::error!("rebuilding the search index failed: {e}"),
        }
    }
}

/// Writes down what was used of the rate limits, every second and at the end.
async fn keep_rates(gates: Arc<Gates>, cancel: CancellationToken) {
    loop {
        let ending = tokio::select! {
            () = cancel.cancelled() => true,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => false,
        };
        let kept = tokio::task::spawn_blocking({
            let gates = gates.clone();
            move || gates.keep_rates()
        });
        if let Ok(Err(e)) = kept.await {
            tracing::error!("what was used of the rate limits cannot be written down: {e}");
        }
        if ending {
            return;
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Self, DaemonError> {
        let catch = |kind, name| signal(kind).map_err(|source| DaemonError::Signal { name, source });
        Ok(Self {
            terminate: catch(SignalKind::terminate(), "SIGTERM")?,
            interrupt: catch(SignalKind::interrupt(), "SIGINT")?,
            hangup: catch(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// SIGHUP reads the policies again; SIGTERM and SIGINT end it.
    async fn wait_for_end(&mut self, app: &App, cancel: &CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => policies::reload(app),
            }
        }
    }
}

fn end_kernel(app: &App, detach: bool) {
    if detach {
        match app.shadows.held() {
            Ok(held) if !held.is_empty() => tracing::warn!(
                "{} held processes stay stopped, and nobody guards them any more: {held:?}; `kill -KILL PID` ends one, `kill -CONT PID` lets it run",
                held.len()
            ),
            Ok(_) => {}
            Err(e) => tracing::error!("cannot tell which processes are still held: {e}"),
        }
        if let Err(e) = app.kernel.detach() {
            tracing::error!("cannot take the kernel programs out: {e}");
        }
    } else if app.kernel.report().pinned {
        app.kernel.leave();
        tracing::info!("the kernel goes on guarding; `lazaret daemon --detach` ends that");
    }
}

fn notify(state: &str) {
    let states: &[sd_notify::NotifyState<'_>] = match state {
        "READY=1" => &[sd_notify::NotifyState::Ready],
        _ => &[sd_notify::NotifyState::Stopping],
    };
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told {state}: {e}");
    }
}
