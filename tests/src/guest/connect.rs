//! Connect evidence: who is refused a container engine, the network, a remote server or MCP over HTTP, and who is not.
//!
//! The engines are listeners of this process, under the names that engines use. Every target is reached in every way
//! by a process that nothing is held against, in the same guest and with the same program.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use super::bench::{Start, install, trace};
use super::daemon::{self, Daemon, Options};
use super::door;
use super::report::{Check, Report, ensure};

pub(super) const SCOPE: &str = "/sys/fs/cgroup/connect";
const CONFIG: &str = "[http]\nlisten = \"127.0.0.1:4997\"\n[kernel]\nconnect_below_clients = \"enforce\"\n[kernel.evidence]\nconnect = \"enforce\"\n";
const REFUSED: &str = "Operation not permitted (os error 1)";

const ENGINE: &str = "/run/podman/podman.sock";
const ROOTLESS: &str = "/run/user/1000/docker.sock";
/// A remote server that a client config names by address, by name, and on this host.
const REMOTE: &str = "10.99.0.1:8080";
const NAMED: &str = "10.99.0.2:8081";
const LOCAL_PORT: u16 = 4999;
/// An HTTP server that no config names.
const HTTP: &str = "127.0.0.1:4998";
const HTTP6: &str = "[::1]:4998";

/// Ways to a container engine: the name of the check, the way, the target.
const WAYS: [(&str, &str, &str); 9] = [
    ("a_flagged_process_is_refused_the_engine_socket_and_lives", "unix", ENGINE),
    ("a_rootless_engine_is_known_by_its_name", "unix", ROOTLESS),
    ("a_link_to_the_engine_socket_is_the_engine_socket", "unix", "/tmp/engine-link"),
    ("a_bind_mount_of_the_engine_socket_is_the_engine_socket", "unix", "/tmp/engine-mount"),
    ("a_renamed_engine_socket_is_the_engine_socket", "unix", "/run/moved/other"),
    ("a_relative_path_to_the_engine_socket_leads_to_the_refusal", "relative", ENGINE),
    ("a_detour_through_proc_leads_to_the_refusal", "unix", "/proc/self/root/run/../run/podman/podman.sock"),
    ("a_connect_by_io_uring_is_refused", "uring", ENGINE),
    ("a_connect_by_a_polling_kernel_thread_is_refused", "sqpoll", ENGINE),
];

/// Ways to the network.
const INET: [(&str, &str); 7] = [
    ("tcp", "127.0.0.1:4999"),
    ("tcp", "[::1]:4999"),
    ("tcp", "[::ffff:127.0.0.1]:4999"),
    ("tcp", "10.99.0.3:4999"),
    ("udp", "127.0.0.1:4999"),
    ("fastopen", "127.0.0.1:4999"),
    ("http:rest", HTTP),
];

const MCP_OVER_HTTP: [(&str, &str); 9] = [
    ("http:session", HTTP),
    ("http:version", HTTP),
    ("http:initialize", HTTP),
    ("http:initialize", HTTP6),
    ("http:discover", "[::ffff:127.0.0.1]:4998"),
    ("split:initialize", HTTP),
    ("split:tools-list-2026", HTTP),
    ("bytes:version", HTTP),
    ("bytes:initialize", HTTP),
];

const OTHER_HTTP: [(&str, &str); 8] = [
    ("http:rest", HTTP),
    ("split:rest", HTTP),
    ("http:ethereum", HTTP),
    ("bytes:ethereum", HTTP),
    ("http:quoted", HTTP),
    ("http:get", HTTP6),
    ("http:acp", HTTP),
    ("http:codex", HTTP),
];

pub fn session(report: &mut Report) {
    if let Err(why) = prepare() {
        return report.failed("the_guest_has_engines_and_servers", &why);
    }
    let early = door::Early::begin();
    let options = Options { name: "connect", mode: "observe", scope: &format!("cgroup:{SCOPE}"), config: Some(CONFIG) };
    daemon::session(report, &options, |report, daemon| {
        engines(report, daemon);
        network(report);
        below_clients(report, daemon);
        door::checks(report, daemon, early);
    });
}

fn engines(report: &mut Report, daemon: &Daemon) {
    report.check("outside_of_the_scope_every_way_leads_to_the_engine", || {
        for (_, way, target) in WAYS {
            leads(way, target, &Flagged { cgroup: None }.reach(way, target)?)?;
        }
        Ok(())
    });
    for (name, way, target) in WAYS {
        report.check(name, || refused(way, target, &Flagged { cgroup: Some(SCOPE) }.reach(way, target)?));
    }
    report.check("a_refused_connect_is_recorded_with_what_it_was_for", || {
        let record = daemon.shadow(FLAGGED)?;
        record.has_evidence("connect")?;
        record.has_action(&["den"])
    });
    report.check("a_process_without_evidence_gets_to_the_engine_in_every_way", || {
        WAYS.iter().try_for_each(|(_, way, target)| leads(way, target, &honest(way, target)?))
    });
}

fn network(report: &mut Report) {
    report.check("a_flagged_process_is_refused_the_network_however_it_connects", || {
        let flagged = Flagged { cgroup: Some(SCOPE) };
        INET.iter().try_for_each(|(way, target)| refused(way, target, &flagged.reach(way, target)?))
    });
    report.check("a_process_without_evidence_gets_to_the_network", || {
        INET.iter().try_for_each(|(way, target)| leads(way, target, &honest(way, target)?))
    });
}

fn below_clients(report: &mut Report, daemon: &Daemon) {
    report.check("below_a_client_the_engine_is_refused_where_the_config_says_so", || {
        WAYS.iter().try_for_each(|(_, way, target)| refused(way, target, &below_client(way, target)?))
    });
    report.check("below_a_client_a_remote_server_that_a_config_names_is_refused", || {
        for target in [REMOTE, "[::ffff:10.99.0.1]:8080", NAMED, "127.0.0.1:4999", "[::1]:4999", "0.0.0.0:4999"] {
            refused("tcp", target, &below_client("tcp", target)?)?;
        }
        refused("fastopen", REMOTE, &below_client("fastopen", REMOTE)?)?;
        daemon.shadow(HONEST)?.has_evidence("connect")
    });
    report.check("below_a_client_other_ports_and_addresses_are_left_alone", || {
        for target in ["10.99.0.1:8081", "10.99.0.2:8080", HTTP, HTTP6, "10.99.0.3:4999"] {
            leads("tcp", target, &below_client("tcp", target)?)?;
        }
        Ok(())
    });
    report.check("below_a_client_mcp_over_http_on_this_host_is_refused", || {
        MCP_OVER_HTTP.iter().try_for_each(|(way, target)| refused(way, target, &below_client(way, target)?))
    });
    report.check("below_a_client_other_http_on_this_host_is_left_alone", || {
        OTHER_HTTP.iter().try_for_each(|(way, target)| leads(way, target, &below_client(way, target)?))
    });
    report.check("mcp_over_http_of_a_process_without_evidence_is_left_alone", || {
        MCP_OVER_HTTP.iter().try_for_each(|(way, target)| leads(way, target, &honest(way, target)?))
    });
}

/// In a session whose daemon only reports what happens below clients.
pub fn reported(report: &mut Report, daemon: &Daemon) {
    let mut check = |name: &str, ways: &[(&str, &str)]| {
        report.check(name, || {
            prepare()?;
            for (way, target) in ways {
                let program = format!("/opt/bin/reported-{}", way.replace(':', "-"));
                install_connector(&program)?;
                leads(
                    way,
                    target,
                    &through(&["/opt/bin/claude", "--send", "none", "--", &program], None, way, target)?,
                )?;
                let record = daemon.shadow(&program)?;
                record.has_evidence("connect")?;
                record.has_action(&["observed"])?;
                let parents = record.0["ancestors"].to_string();
                ensure(parents.contains("claude"), || format!("its client is not among its parents: {parents}"))?;
            }
            Ok(())
        })
    };
    check("below_a_client_connects_are_reported_and_left_alone", &[("unix", ENGINE), ("tcp", REMOTE)]);
    check("below_a_client_mcp_over_http_on_this_host_is_reported_and_left_alone", &[("http:initialize", HTTP)]);
}

pub(super) fn refused(way: &str, target: &str, outcome: &str) -> Check {
    ensure(outcome == REFUSED, || format!("{way} to {target} went {outcome:?}"))
}

fn leads(way: &str, target: &str, outcome: &str) -> Check {
    ensure(outcome == "connected", || format!("{way} to {target} went {outcome:?}"))
}

const FLAGGED: &str = "/opt/bin/configured-connector";
pub(super) const HONEST: &str = "/opt/bin/honest-connector";
const JOB: &str = "/tmp/connect.job";

/// A client config names this one, so that its start is evidence against it.
struct Flagged {
    cgroup: Option<&'static str>,
}

impl Flagged {
    fn reach(&self, way: &str, target: &str) -> Result<String, String> {
        through(&[FLAGGED], self.cgroup, way, target)
    }
}

fn honest(way: &str, target: &str) -> Result<String, String> {
    through(&[HONEST], Some(SCOPE), way, target)
}

pub(super) fn below_client(way: &str, target: &str) -> Result<String, String> {
    through(&["/opt/bin/claude", "--send", "none", "--", HONEST], Some(SCOPE), way, target)
}

/// Runs `command` with a job for the connector; how that went. The connector must have come to its own end.
pub(super) fn through(command: &[&str], cgroup: Option<&str>, way: &str, target: &str) -> Result<String, String> {
    let outcome = trace("connect.outcome");
    let _ = fs::remove_file(&outcome); // the last one's
    fs::write(JOB, format!("{way} {target} {outcome}\n")).map_err(|e| format!("cannot write {JOB}: {e}"))?;
    let command = [command, &["--job", JOB]].concat();
    Start { cgroup, ..Start::silent() }
        .run(&command)?
        .left_alone()
        .map_err(|why| format!("{way} to {target}: {why}"))?;
    fs::read_to_string(&outcome).map_err(|e| format!("{way} to {target} left no outcome: {e}"))
}

fn install_connector(path: &str) -> Result<(), String> {
    install(path, &fs::read("/bin/connector").map_err(|e| format!("cannot read the connector: {e}"))?)
}

fn prepare() -> Result<(), String> {
    fs::create_dir_all(SCOPE).map_err(|e| format!("cannot make {SCOPE}: {e}"))?;
    install_connector(FLAGGED)?;
    install_connector(HONEST)?;
    install("/opt/bin/claude", &fs::read("/bin/mcp-client").map_err(|e| format!("cannot read the client: {e}"))?)?;
    if fs::exists(ENGINE).unwrap_or(false) {
        return Ok(());
    }
    let remote = format!(
        r#"{{"mcpServers": {{"a": {{"url": "http://{REMOTE}/mcp"}}, "b": {{"url": "http://mcp.guest.test:8081/sse"}}, "c": {{"url": "http://localhost:{LOCAL_PORT}/mcp"}}}}}}"#
    );
    let written = fs::create_dir_all("/root/.gemini")
        .and_then(|()| fs::write("/root/.gemini/settings.json", remote))
        .and_then(|()| fs::write("/etc/hosts", "127.0.0.1 localhost\n10.99.0.2 mcp.guest.test\n"));
    written.map_err(|e| format!("cannot write the client config: {e}"))?;
    for address in ["10.99.0.1", "10.99.0.2", "10.99.0.3"] {
        run("ip", &["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    for path in [ENGINE, ROOTLESS, "/run/moved/docker.sock"] {
        engine(path).map_err(|e| format!("cannot listen on {path}: {e}"))?;
    }
    fs::rename("/run/moved/docker.sock", "/run/moved/other").map_err(|e| format!("cannot move a socket: {e}"))?;
    symlink(ENGINE, "/tmp/engine-link").map_err(|e| format!("cannot make a link: {e}"))?;
    fs::write("/tmp/engine-mount", "").map_err(|e| format!("cannot make a mount point: {e}"))?;
    run("mount", &["--bind", ENGINE, "/tmp/engine-mount"])?;
    for address in ["[::]:4999", "[::]:4998", "[::]:8080", "[::]:8081"] {
        serve(address).map_err(|e| format!("cannot listen on {address}: {e}"))?;
    }
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> Check {
    let status = Command::new(program).args(arguments).status().map_err(|e| format!("cannot run {program}: {e}"))?;
    ensure(status.success(), || format!("{program} {} ended with {status}", arguments.join(" ")))
}

/// Takes every connection and hangs up.
fn engine(path: &str) -> std::io::Result<()> {
    let parent = std::path::Path::new(path).parent().unwrap_or(std::path::Path::new("/"));
    fs::create_dir_all(parent)?;
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(())
}

/// Answers each HTTP request with 200 once it is whole.
pub(super) fn serve(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        if count == 0 || is_whole(&request) {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).and_then(|n| n.parse().ok());
    body.len() >= length.unwrap_or(0_usize)
}
