//! The daemon's own HTTP below an MCP client, where every other MCP over HTTP is refused: nobody else is taken for it.
//!
//! Nobody here has a token, so that the door refuses what it is sent: that it says so is what must come through.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::bench::{SOON, trace};
use super::connect::{HONEST, SCOPE, below_client, refused, serve, through};
use super::connect_requests::{LATE_CONNECTED, LATE_GO};
use super::daemon::Daemon;
use super::report::{Check, Report, ensure};
use crate::poll;

/// `[http] listen` of this session's daemon.
const DOOR: &str = "127.0.0.1:4997";
const LATE_JOB: &str = "/tmp/late.job";

/// A server on `DOOR` in a network of its own, and then what is to reach it.
const ELSEWHERE: &str = r#"ip link set lo up
nc -ll -p 4997 -e cat </dev/null >/dev/null 2>&1 &
until grep -q ':1385 ' /proc/net/tcp /proc/net/tcp6; do :; done
"$@"; went=$?
kill $!
exit $went"#;

/// A connection to a server that had the door's place before the daemon, by a process below a client.
pub(super) struct Early {
    client: Child,
    server: TcpStream,
    outcome: String,
}

impl Early {
    pub(super) fn begin() -> Result<Self, String> {
        let io = |what: &'static str| move |e: std::io::Error| format!("cannot {what}: {e}");
        let outcome = trace("late.outcome");
        for file in [LATE_CONNECTED, LATE_GO, &outcome] {
            let _ = fs::remove_file(file); // another run's
        }
        let listener = TcpListener::bind(DOOR).map_err(io("listen in the door's place"))?;
        fs::write(LATE_JOB, format!("late:initialize {DOOR} {outcome}\n")).map_err(io("write a job"))?;
        let enter = format!("echo 0 > {SCOPE}/cgroup.procs && exec \"$@\"");
        let client = Command::new("/bin/sh")
            .args(["-c", &enter, "sh", "/opt/bin/claude", "--send", "none", "--timeout-ms", "900000", "--"])
            .args([HONEST, "--job", LATE_JOB])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(io("start a client"))?;
        let (server, _) = listener.accept().map_err(io("accept a connection"))?;
        poll(SOON, || Path::new(LATE_CONNECTED).exists().then_some(())).ok_or("the client did not connect")?;
        Ok(Self { client, server, outcome })
    }

    fn end(mut self) -> Check {
        fs::write(LATE_GO, "").map_err(|e| format!("cannot say go: {e}"))?;
        // Where it is not refused it would wait for an answer.
        self.server.set_read_timeout(Some(SOON)).map_err(|e| format!("cannot set a deadline: {e}"))?;
        let _ = self.server.read(&mut [0; 1]);
        drop(self.server);
        self.client.wait().map_err(|e| format!("cannot wait for the client: {e}"))?;
        let outcome = fs::read_to_string(&self.outcome).map_err(|e| format!("it left no outcome: {e}"))?;
        refused("late:initialize", DOOR, &outcome)
    }
}

pub(super) fn checks(report: &mut Report, daemon: &mut Daemon, early: Result<Early, String>) {
    report.check("below_a_client_the_doors_own_http_is_reached", || {
        for way in ["http:session", "http:initialize"] {
            let outcome = below_client(way, DOOR)?;
            ensure(outcome.starts_with("the answer was \"HTTP/1.1 4"), || format!("{way} went {outcome:?}"))?;
        }
        // It answers when it has the head, and hangs up on who goes on sending.
        for way in ["split:tools-list-2026", "bytes:initialize"] {
            let outcome = below_client(way, DOOR)?;
            let reached = ["the answer was \"HTTP/1.1 4", "Broken pipe", "Connection reset"];
            let is_reached = reached.iter().any(|start| outcome.starts_with(start));
            ensure(is_reached, || format!("{way} went {outcome:?}"))?;
        }
        Ok(())
    });
    report.check("below_a_client_the_doors_port_elsewhere_is_refused", || {
        for target in ["[::1]:4997", "127.0.0.2:4997"] {
            serve(target).map_err(|e| format!("cannot listen on {target}: {e}"))?;
            refused("http:initialize", target, &below_client("http:initialize", target)?)?;
        }
        let apart = ["unshare", "-n", "sh", "-c", ELSEWHERE, "sh", HONEST];
        let command = [&["/opt/bin/claude", "--send", "none", "--"][..], &apart].concat();
        refused("http:initialize in another network", DOOR, &through(&command, Some(SCOPE), "http:initialize", DOOR)?)
    });
    report.check("below_a_client_a_connection_from_before_the_door_is_refused", || early?.end());
    report.check("a_port_that_was_the_doors_is_no_door_when_the_daemon_was_killed", || {
        daemon.kill_9()?;
        serve(DOOR).map_err(|e| format!("cannot listen on {DOOR}: {e}"))?;
        refused("http:initialize", DOOR, &below_client("http:initialize", DOOR)?)
    });
}
