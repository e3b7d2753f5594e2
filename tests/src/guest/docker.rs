//! Docker itself in the guest: an approved server in its cage, and the ways past the door that lead through containers.
//!
//! Invariant: whatever is stopped, Docker is not. Every message to a container is read by dockerd and a shim before
//! the container's own process reads it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::bench::{Ended, SOON, Start};
use super::daemon::{self, Daemon, Options};
use super::docker_api::{self, request};
use super::report::{Check, Report, ensure};
use crate::{messages, poll};

/// dockerd is up within this, without KVM.
const START: Duration = Duration::from_secs(180);
const LOG: &str = "/tmp/log/dockerd.log";
pub const CLIENT: &str = "/usr/bin/docker";
/// What a container's processes run, as they see it.
const IN_IT: &str = "/bin/busybox";
pub const IMAGE: &str = "tiny";
pub const AGENT: &str = "guest@test.lazaret.local";

/// Whether this guest is the one that has Docker.
pub fn is_here() -> bool {
    Path::new("/usr/bin/dockerd").exists()
}

pub fn session(report: &mut Report) {
    if let Err(why) = start_dockerd().and_then(|()| import(CLIENT)) {
        report.failed("the_guest_has_docker", &why);
        return report.log(&fs::read_to_string(LOG).unwrap_or_default());
    }
    report.check("without_a_daemon_a_container_answers_by_docker_run_by_hand_and_by_exec", || {
        outside_the_door("bare-run")?.answered()?;
        by_hand("bare-hand")?.answered()?;
        let container = shell(&format!("{CLIENT} run --detach --interactive --network none {IMAGE} bare"))?;
        exec_by_hand(container.trim(), "bare-exec")?.answered()?;
        shell(&format!("{CLIENT} rm --force {container}")).map(drop)
    });
    let failures = report.failures();
    let options = Options { name: "docker", mode: "enforce", scope: "host", config: None };
    daemon::session(report, &options, checks);
    if report.failures() > failures {
        report.log(&fs::read_to_string(LOG).unwrap_or_default());
    }
}

fn checks(report: &mut Report, daemon: &mut Daemon) {
    let before = docker_pids();
    let approved = Approved::new(daemon);
    let approved = || approved.as_ref().map_err(String::clone);

    report.check("an_approved_server_answers_from_its_cage_while_the_host_is_enforced", || approved()?.answers());
    report.check("a_server_that_an_approved_one_starts_is_stopped", || {
        let text = approved()?.call(&json!({"nested": true}))?;
        ensure(text == "it said nothing", || format!("of the other server it says: {text}"))?;
        stopped_at_the_handshake(daemon, "nested", IN_IT)?;
        ensure(cages()?.contains(&approved()?.cage), || "the approved server was stopped with it".into())?;
        approved()?.answers()
    });
    report.check("what_an_approved_server_passes_on_as_it_came_is_left_alone", || {
        let text = approved()?.call(&json!({"relayed": true}))?;
        ensure(text == "it answered", || format!("of the other server it says: {text}"))?;
        ensure(daemon.find_shadow("relayed")?.is_none(), || "it has a shadow record".into())
    });
    report.check("docker_exec_into_an_approved_container_is_stopped", || {
        let cage = &approved()?.cage;
        Start::silent().run(&[CLIENT, "exec", "-i", cage, "/bin/busybox", "echo", "in"])?.left_alone()?;
        Start::sending("initialize")
            .run(&[CLIENT, "exec", "-i", cage, "/bin/sh", "/server.sh", "by-exec"])?
            .stopped()?;
        stopped_at_the_handshake(daemon, "by-exec", CLIENT)?;
        ensure(cages()?.contains(cage), || "the approved container was stopped with it".into())
    });
    report.check("docker_run_of_a_server_outside_the_door_is_stopped", || {
        outside_the_door("by-run")?.stopped()?;
        stopped_at_the_handshake(daemon, "by-run", CLIENT)
    });
    report.check("a_request_written_to_docker_sock_by_hand_is_stopped_in_the_container", || {
        let (docker, cage_shims) = (docker_pids(), &approved()?.shims);
        let container = by_hand("by-hand")?;
        container.was_killed()?;
        stopped_at_the_handshake(daemon, "by-hand", IN_IT)?;
        ensure(docker_pids() == docker && cage_shims.is_subset(&pids("containerd-shim-runc-v2")), || {
            "a part of Docker was killed with it".into()
        })
    });
    report.check("an_exec_written_to_docker_sock_by_hand_is_stopped_in_the_approved_container", || {
        let approved = approved()?;
        exec_by_hand(&approved.cage, "by-hand-exec")?.was_killed()?;
        stopped_at_the_handshake(daemon, "by-hand-exec", IN_IT)?;
        ensure(cages()?.contains(&approved.cage), || "the approved container was stopped with it".into())
    });
    report.check("a_database_client_run_with_docker_run_i_is_left_alone", || {
        let command = format!(
            "echo 'SELECT 1;' | timeout 120 {CLIENT} run --rm --network none -i --entrypoint /bin/busybox {IMAGE} cat"
        );
        ensure(shell(&command)? == "SELECT 1;\n", || "the statement did not come back".into())?;
        ensure(daemon.find_shadow("cat")?.is_none(), || "it has a shadow record".into())
    });
    report.check("docker_itself_is_never_stopped", || {
        let approved = approved()?;
        ensure(!before.is_empty() && docker_pids() == before, || {
            format!("dockerd and containerd were {before:?} and are {:?}", docker_pids())
        })?;
        let shims = pids("containerd-shim-runc-v2");
        ensure(!approved.shims.is_empty() && approved.shims.is_subset(&shims), || {
            format!("the cage's shims were {:?}, all shims are {shims:?}", approved.shims)
        })?;
        for name in ["dockerd", "containerd", "containerd-shim-runc-v2", "runc"] {
            let record = daemon.find_shadow(&format!("/usr/bin/{name}"))?;
            ensure(record.is_none(), || format!("{name} has a record: {record:?}"))?;
        }
        ensure(cages()?.contains(&approved.cage), || "the approved container is gone".into())?;
        approved.answers()
    });
}

fn start_dockerd() -> Check {
    let failed = |what: &str, e: std::io::Error| format!("cannot {what}: {e}");
    let root = "/sys/fs/cgroup";
    let controllers =
        fs::read_to_string(format!("{root}/cgroup.controllers")).map_err(|e| failed("list controllers", e))?;
    for controller in controllers.split_whitespace() {
        fs::write(format!("{root}/cgroup.subtree_control"), format!("+{controller}"))
            .map_err(|e| failed(&format!("give containers the controller {controller}"), e))?;
    }
    let log = File::create(LOG).map_err(|e| failed("make dockerd's log", e))?;
    let stderr = log.try_clone().map_err(|e| failed("share dockerd's log", e))?;
    let mut dockerd = Command::new("/usr/bin/dockerd")
        // A guest has no network and runs from its initramfs, where there is neither overlayfs nor pivot_root.
        .args(["--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false"])
        .env("DOCKER_RAMDISK", "true")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(stderr)
        .spawn()
        .map_err(|e| failed("run dockerd", e))?;
    let up = poll(START, || match dockerd.try_wait() {
        Ok(Some(status)) => Some(Err(format!("dockerd ended with {status}"))),
        _ => docker_api::is_up().then_some(Ok(())),
    });
    up.unwrap_or_else(|| Err(format!("dockerd did not answer within {START:?}")))
}

/// Makes an image of busybox and a server in its shell. `client` is Docker's, pointed at an engine.
pub fn import(client: &str) -> Check {
    let image = "/tmp/image";
    fs::create_dir_all(format!("{image}/bin"))
        .and_then(|()| fs::copy("/bin/busybox", format!("{image}/bin/busybox")))
        .and_then(|_| fs::remove_file(format!("{image}/bin/sh")).or(Ok(())))
        .and_then(|()| std::os::unix::fs::symlink("busybox", format!("{image}/bin/sh")))
        .and_then(|()| fs::write(format!("{image}/server.sh"), include_str!("container-server.sh")))
        .map_err(|e| format!("cannot make the files of an image: {e}"))?;
    let run = r#"-c 'ENTRYPOINT ["/bin/sh","/server.sh"]' -c 'ENV PATH=/bin'"#;
    shell(&format!("tar -c -C {image} . | {client} import {run} - {IMAGE}")).map(drop)
}

/// A server that went in through the door.
struct Approved {
    cage: String,
    shims: BTreeSet<u32>,
}

impl Approved {
    fn new(daemon: &Daemon) -> Result<Self, String> {
        daemon.cli(&["server", "add", IMAGE, "--image", IMAGE])?;
        daemon.cli(&["server", "approve", IMAGE])?;
        daemon.cli(&["agent", "enroll", AGENT])?;
        let shims = pids("containerd-shim-runc-v2");
        match cages()?.as_slice() {
            [cage] => Ok(Self { cage: cage.clone(), shims }),
            other => Err(format!("one approved server runs in {other:?}")),
        }
    }

    /// An agent calls its tool through the door.
    fn answers(&self) -> Check {
        let text = self.call(&json!({}))?;
        ensure(text == "hello from the cage", || format!("the answer is {text:?}"))
    }

    /// What the tool says.
    fn call(&self, arguments: &Value) -> Result<String, String> {
        call(IMAGE, arguments)
    }
}

/// An agent calls the tool of a server through the door: what it says.
pub fn call(server: &str, arguments: &Value) -> Result<String, String> {
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "call_tool",
        "arguments": {"server": server, "tool": "hello", "arguments": arguments}}});
    let mut session = messages::message("initialize").unwrap_or_default();
    session.extend(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
    session.extend(format!("{call}\n").into_bytes());

    // `timeout` ends what this waits for.
    let mut connector = Command::new("timeout")
        .args(["120", "/bin/lazaret", "connect", "--agent", AGENT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run the connector: {e}"))?;
    let (Some(mut input), Some(output)) = (connector.stdin.take(), connector.stdout.take()) else {
        return Err("the connector has no pipes".into());
    };
    input.write_all(&session).map_err(|e| format!("the connector takes nothing: {e}"))?;
    let answer = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .find(|answer| answer["id"] == 2);
    drop(input);
    let status = connector.wait().map_err(|e| format!("cannot wait for the connector: {e}"))?;
    let answer = answer.ok_or_else(|| format!("the connector ended with {status} and no answer to the call"))?;
    let text = answer["result"]["content"][0]["text"].as_str();
    text.map(str::to_owned).ok_or_else(|| format!("the answer has no text: {answer}"))
}

/// `docker run -i` of the server, as a client would start it.
fn outside_the_door(mark: &str) -> Result<Ended, String> {
    Start::sending("initialize").run(&[CLIENT, "run", "--rm", "--network", "none", "-i", IMAGE, mark])
}

/// What became of a container.
#[derive(Debug)]
struct Contained {
    said: String,
    exit_code: i64,
}

impl Contained {
    fn answered(&self) -> Check {
        ensure(self.said.contains("protocolVersion") && self.exit_code == 0, || {
            format!("it did not answer and end: {self:?}")
        })
    }

    fn was_killed(&self) -> Check {
        ensure(self.said.is_empty() && self.exit_code == 137, || {
            format!("its process was not killed before it answered: {self:?}")
        })
    }
}

/// Starts the server over Docker's socket, without Docker's client, and opens a session on the hijacked connection.
fn by_hand(mark: &str) -> Result<Contained, String> {
    let create = json!({
        "Image": IMAGE, "Cmd": [mark], "HostConfig": {"NetworkMode": "none"},
        "OpenStdin": true, "StdinOnce": true, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
    });
    let created = request("POST", "/containers/create", &create)?;
    let id = created["Id"].as_str().ok_or_else(|| format!("there is no container's id in {created}"))?;
    let streams = "stream=1&stdin=1&stdout=1&stderr=1";
    let streams = docker_api::hijack(&format!("/containers/{id}/attach?{streams}"), &Value::Null)?;
    request("POST", &format!("/containers/{id}/start"), &Value::Null)?;
    let said = initialize(streams)?;
    let ended = request("POST", &format!("/containers/{id}/wait"), &Value::Null)?;
    let exit_code = ended["StatusCode"].as_i64().ok_or_else(|| format!("there is no exit code in {ended}"))?;
    request("DELETE", &format!("/containers/{id}?force=1"), &Value::Null)?;
    Ok(Contained { said, exit_code })
}

/// The same in a container that runs already.
fn exec_by_hand(container: &str, mark: &str) -> Result<Contained, String> {
    let create = json!({
        "Cmd": ["/bin/sh", "/server.sh", mark], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
    });
    let created = request("POST", &format!("/containers/{container}/exec"), &create)?;
    let id = created["Id"].as_str().ok_or_else(|| format!("there is no exec's id in {created}"))?;
    let said = initialize(docker_api::hijack(&format!("/exec/{id}/start"), &json!({"Detach": false, "Tty": false}))?)?;
    // Nothing waits for the end of an exec; it has an exit code when it is there.
    let exit_code = poll(SOON, || request("GET", &format!("/exec/{id}/json"), &Value::Null).ok()?["ExitCode"].as_i64());
    let exit_code = exit_code.ok_or_else(|| format!("an exec that said {said:?} did not end"))?;
    Ok(Contained { said, exit_code })
}

/// Opens a session and closes it. What the server said, or nothing if it ended before.
fn initialize(mut streams: UnixStream) -> Result<String, String> {
    let message = messages::message("initialize").unwrap_or_default();
    streams.write_all(&message).map_err(|e| format!("cannot write to the container: {e}"))?;
    let mut said = vec![0; 4096];
    let count = streams.read(&mut said).map_err(|e| format!("the container neither answers nor ends: {e}"))?;
    Ok(String::from_utf8_lossy(&said[..count]).into_owned())
}

/// The shadow record that has `mark` in its argv: the one of `exe`.
fn stopped_at_the_handshake(daemon: &Daemon, mark: &str, exe: &str) -> Check {
    let shadow = daemon.shadow(mark)?;
    ensure(shadow.0["exe"] == exe, || format!("it is not {exe} that was stopped: {}", shadow.0))?;
    shadow.has_evidence("handshake")?;
    shadow.has_action(&["kill"])
}

/// The containers that Lazaret runs.
fn cages() -> Result<Vec<String>, String> {
    let ids = shell(&format!("{CLIENT} ps --quiet --no-trunc --filter name=lazaret-"))?;
    Ok(ids.lines().map(str::to_owned).collect())
}

fn docker_pids() -> BTreeSet<u32> {
    &pids("dockerd") | &pids("containerd")
}

/// The processes that run this program of Docker's.
fn pids(program: &str) -> BTreeSet<u32> {
    let exe = Path::new("/usr/bin").join(program);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let running = entries.filter(|entry| fs::read_link(entry.path().join("exe")).is_ok_and(|path| path == exe));
    running.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The stdout of a command that must succeed.
pub fn shell(command: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run a shell: {e}"))?;
    ensure(output.status.success(), || {
        format!("`{command}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
