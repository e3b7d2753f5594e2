//! The handshake on the channel: every shape of stdio, every way of reading and writing, every shape of message. Each
//! with a twin that is no MCP and goes through.

use std::fs;

use super::bench::{Shadow, Start, install_shadow};
use super::daemon::Daemon;
use super::enforce::judged;
use super::report::{Check, Report, ensure};
use crate::messages;

/// Ways of reading (`reading.rs`), by the stdio that they work on.
const OF_PIPES: &[&str] = &[
    "read",
    "byte",
    "thread",
    "readv",
    "readv-bytes",
    "preadv2",
    "fault",
    "vmsplice",
    "splice",
    "splice-bytes",
    "splice-file",
    "tee",
    "uring",
    "uring-sqpoll",
    "uring-readv",
    "uring-fixed",
    "uring-worker",
];
const OF_SOCKETS: &[&str] = &[
    "read",
    "byte",
    "thread",
    "readv",
    "readv-bytes",
    "recv",
    "recvmsg",
    "recvmmsg",
    "peek",
    "peek-byte",
    "fault",
    "splice",
    "splice-bytes",
    "uring",
    "uring-sqpoll",
    "uring-readv",
    "uring-recv",
    "uring-fixed",
    "uring-worker",
];
/// Shapes of stdio (`stdio.rs`).
const SHAPES: &[&str] = &["fifo", "named", "abstract", "packets", "datagrams", "terminal"];
/// Ways of writing.
const WRITTEN: &[&str] = &["bytes", "halves", "vectors"];
/// Messages (`messages.rs`).
const MESSAGES: &[&str] = &[
    "initialize-after-a-line",
    "initialize-after-text",
    "initialize-late",
    "discover-late",
    "initialize-marked",
    "initialize-all-escaped",
    "initialize-twice-named",
    "initialize-batch",
    "initialize-odd-headers",
];
const BENIGN: &[&str] = &["acp", "quotes", "documentation", "log"];

/// One start of a server: the shape of its stdio, its way of reading, the client's way of writing, the message.
#[derive(Clone, Copy)]
struct Case<'a> {
    io: &'a str,
    reads: &'a str,
    writes: &'a str,
    sends: &'a str,
}

impl<'a> Case<'a> {
    fn start(&self, from: Start<'a>) -> Start<'a> {
        Start { io: self.io, by: self.writes, ..from }
    }

    fn name(&self) -> String {
        format!("channel-{}-{}-{}-{}", self.io, self.reads, self.writes, self.sends)
    }

    fn explain(&self, why: &str) -> String {
        format!("{}: {why}", self.name())
    }

    /// Without a daemon the server gets it.
    fn gets_through(&self) -> Check {
        let shadow = install_shadow(&format!("bare-{}", self.name()))?;
        self.start(Start::sending(self.sends)).run(&shadow.command(self.reads))?;
        ensure(shadow.has_read(), || self.explain("the server got nothing"))
    }

    fn is_stopped(&self) -> Check {
        let shadow = install_shadow(&self.name())?;
        let ended = self.start(judged(self.sends)).run(&shadow.command(self.reads))?;
        ended.stopped().and_then(|()| never_read(&shadow)).map_err(|why| self.explain(&why))
    }

    /// Whatever comes of it: other checks say what must.
    fn is_tried(&self) -> Check {
        let shadow = install_shadow(&self.name())?;
        self.start(judged(self.sends)).run(&shadow.command(self.reads)).map(drop)
    }

    fn is_left_alone(&self) -> Check {
        let shadow = install_shadow(&format!("twin-{}", self.name()))?;
        let ended = self.start(judged(self.sends)).run(&shadow.command(self.reads))?;
        ended
            .answered()
            .and_then(|()| ended.left_alone())
            .and_then(|()| ensure(shadow.has_read(), || "it got nothing".into()))
            .map_err(|why| self.explain(&why))
    }
}

fn never_read(shadow: &Shadow) -> Check {
    ensure(shadow.started(), || "it was stopped before it began: that proves nothing of the handshake".into())?;
    ensure(!shadow.has_read(), || "it read the message".into())
}

fn reading<'a>(io: &'a str, sends: &'a str) -> impl Iterator<Item = Case<'a>> {
    let ways = if io == "pipe" { OF_PIPES } else { OF_SOCKETS };
    ways.iter().map(move |reads| Case { io, reads, writes: "whole", sends })
}

fn shapes(sends: &str) -> impl Iterator<Item = Case<'_>> {
    let cases = move |io: &&'static str| {
        let io = *io;
        // What is left of a packet is lost.
        let ways: &[&str] =
            if matches!(io, "packets" | "datagrams") { &["read", "recvmsg"] } else { &["read", "byte"] };
        ways.iter().map(move |reads| Case { io, reads, writes: "whole", sends })
    };
    SHAPES.iter().flat_map(cases)
}

fn writing(sends: &str) -> impl Iterator<Item = Case<'_>> {
    WRITTEN.iter().flat_map(move |writes| {
        ["pipe", "socketpair"].into_iter().map(move |io| Case { io, reads: "read", writes, sends })
    })
}

fn all(cases: impl IntoIterator<Item = Check>) -> Check {
    let failed: Vec<String> = cases.into_iter().filter_map(Result::err).collect();
    ensure(failed.is_empty(), || failed.join("; "))
}

pub fn bare(report: &mut Report) {
    report.check("without_a_daemon_every_way_of_reading_gets_the_message", || {
        all(["pipe", "socketpair"].into_iter().flat_map(|io| reading(io, "initialize")).map(|case| case.gets_through()))
    });
    report.check("without_a_daemon_every_shape_of_stdio_carries_the_message", || {
        all(shapes("initialize").chain(writing("initialize")).map(|case| case.gets_through()))
    });
}

pub fn checks(report: &mut Report, daemon: &Daemon) {
    report.check("no_way_of_reading_a_pipe_hides_the_handshake", || {
        all(reading("pipe", "initialize").map(|case| case.is_stopped()))
    });
    report.check("no_way_of_reading_a_socket_hides_the_handshake", || {
        all(reading("socketpair", "initialize").map(|case| case.is_stopped()))
    });
    report.check("no_shape_of_stdio_hides_the_handshake", || {
        all(shapes("initialize").chain(shapes("discover")).map(|case| case.is_stopped()))
    });
    report.check("no_way_of_writing_hides_the_handshake", || all(writing("initialize").map(|case| case.is_stopped())));
    report.check("no_shape_of_the_message_hides_the_handshake", || {
        all(MESSAGES.iter().flat_map(|sends| {
            [("pipe", "read"), ("socketpair", "byte")]
                .map(|(io, reads)| Case { io, reads, writes: "whole", sends }.is_stopped())
        }))
    });
    report.check("another_protocol_may_be_read_in_every_way", || {
        let ways = ["pipe", "socketpair"].into_iter().flat_map(|io| reading(io, "acp"));
        all(ways.chain(shapes("acp")).chain(writing("acp")).map(|case| case.is_left_alone()))
    });
    report.check("a_channel_inherits_nothing_from_the_one_before", || {
        ends_are_seen(daemon)?;
        // What is stopped leaves most of the message unread; the next channel of the kind gets its memory.
        let kinds = [("pipe", "vmsplice"), ("kept-fifo", "byte"), ("terminal", "byte"), ("socketpair", "peek-byte")];
        all(kinds.into_iter().flat_map(|(io, reads)| {
            let case = move |sends| Case { io, reads, writes: "whole", sends };
            (0..4).flat_map(move |_| [case("initialize").is_tried(), case("acp").is_left_alone()])
        }))
    });
    report.check("text_about_mcp_is_left_alone", || {
        all(BENIGN.iter().flat_map(|sends| {
            [("pipe", "read"), ("pipe", "byte"), ("socketpair", "readv")]
                .map(|(io, reads)| Case { io, reads, writes: "whole", sends }.is_left_alone())
        }))
    });
    report.check("who_takes_a_part_of_the_message_does_not_excuse_who_takes_the_rest", || {
        let shadow = install_shadow("rest-of-it")?;
        let script = r#"/usr/bin/head -c 20 >/dev/null; exec "$@""#;
        run(&judged("initialize"), script, &shadow)?.unanswered()?;
        never_read(&shadow)
    });
    report.check("what_a_text_tool_takes_from_a_file_is_left_alone", || {
        log()?;
        for tool in ["/usr/bin/cat", "/usr/bin/grep initialize", "/usr/bin/sed -n p"] {
            let ended = judged("none").run(&["sh", "-c", &format!("{tool} /tmp/mcp-log | sed -n '$='")])?;
            ended.answered().and_then(|()| ended.left_alone()).map_err(|why| format!("{tool}: {why}"))?;
        }
        Ok(())
    });
    report.check("who_started_a_program_may_read_what_it_prints", || {
        log()?;
        for script in
            ["cat /tmp/mcp-log", "/usr/bin/cat /tmp/mcp-log", "while read -r l; do echo \"$l\"; done </tmp/mcp-log"]
        {
            for io in ["pipe", "socketpair"] {
                let ended = Start { io, ..judged("none") }.run(&["sh", "-c", script])?;
                ended.answered().and_then(|()| ended.left_alone()).map_err(|why| format!("{script}: {why}"))?;
            }
        }
        Ok(())
    });
    report.check("who_looks_at_a_message_with_a_text_tool_is_left_alone", || {
        log()?;
        let script = r#"said=$(while read -r l; do echo "$l"; done </tmp/mcp-log | /usr/bin/sed -n 's/.*"method": *"\([^"]*\)".*/\1/p'); echo "$said""#;
        let ended = judged("none").run(&["sh", "-c", script])?;
        ended.answered().and_then(|()| ended.left_alone())?;
        ensure(ended.said("initialize"), || "the tool was stopped, or said something else".into())
    });
    report.check("status_counts_the_runs_that_the_kernel_skipped", || {
        let status = daemon.json(&["status", "--json"])?;
        let hooks = status["kernel"]["hooks"].as_array().ok_or("the status has no hooks")?;
        ensure(hooks.iter().all(|hook| hook["skipped"].is_u64()), || format!("a hook does not say: {hooks:?}"))
    });
}

/// Where functions can be hooked, those are that tell one channel from the next in its memory.
fn ends_are_seen(daemon: &Daemon) -> Check {
    if daemon.backend()? == "tracepoint" {
        return Ok(());
    }
    let status = daemon.json(&["status", "--json"])?;
    let hooks = status["kernel"]["hooks"].as_array().ok_or("the status has no hooks")?;
    let proven = |function: &str| hooks.iter().any(|hook| hook["name"] == function && hook["proven"] == true);
    ensure(["alloc_pipe_info", "unix_sock_destructor", "pty_close"].into_iter().all(proven), || {
        format!("not proven: {hooks:?}")
    })
}

fn run(start: &Start<'_>, script: &str, shadow: &Shadow) -> Result<super::bench::Ended, String> {
    let command = shadow.command("read");
    let words: Vec<&str> = ["sh", "-c", script, "sh"].into_iter().chain(command.iter().map(String::as_str)).collect();
    start.run(&words)
}

/// What a client has said, as it said it.
fn log() -> Check {
    let log: Vec<u8> =
        ["initialize", "discover", "tools-list-2026"].into_iter().filter_map(messages::message).flatten().collect();
    fs::write("/tmp/mcp-log", log).map_err(|e| e.to_string())
}
