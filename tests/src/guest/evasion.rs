//! Ways around the handshake that a server's author has without help from the client.

use super::bench::{Ended, Shadow, Start, install_shadow};
use super::enforce::judged;
use super::report::{Check, Report, ensure};

macro_rules! opening {
    () => {
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#
    };
}

/// Checks and shell scripts. The shell gets the server's command as its arguments.
const DETOURS: [(&str, &str); 9] = [
    ("a_text_tool_in_between_does_not_hide_the_handshake", r#"/usr/bin/cat | "$@""#),
    ("another_program_in_between_does_not_hide_the_handshake", r#"/bin/cat | "$@""#),
    (
        "a_fifo_as_stdin_does_not_hide_the_handshake",
        r#"rm -f /tmp/fifo; mkfifo /tmp/fifo; exec 3<&0; /usr/bin/cat <&3 >/tmp/fifo & exec "$@" </tmp/fifo"#,
    ),
    // Who started the writer may read what it prints, but not as its own input.
    (
        "a_message_from_the_servers_own_child_is_judged",
        concat!(
            "rm -f /tmp/own; mkfifo /tmp/own; printf '%s\\n' '",
            opening!(),
            r#"' >/tmp/own & exec "$@" </tmp/own"#
        ),
    ),
    (
        "a_message_that_the_server_wrote_before_it_was_the_server_is_judged",
        concat!(
            "rm -f /tmp/ahead; mkfifo /tmp/ahead; exec 4<>/tmp/ahead; printf '%s\\n' '",
            opening!(),
            r#"' >&4; exec "$@" <&4"#
        ),
    ),
    ("a_session_of_its_own_does_not_hide_the_handshake", r#"exec setsid "$@""#),
    ("an_orphan_is_judged_as_its_parents_were", r#"("$@" <&3 &) 3<&0"#),
    ("the_loader_as_the_program_does_not_hide_the_handshake", r#"exec /lib64/ld-linux-x86-64.so.2 "$@""#),
    ("what_was_born_in_scope_stays_in_it_when_it_moves_out", r#"(echo 0 >/sys/fs/cgroup/cgroup.procs && exec "$@")"#),
];

/// What comes out of it is no message, and the server would have to make one of it again.
const DISGUISE: &str = r#"/usr/bin/sed 's/{/#/;q' | "$@""#;

fn take(start: &Start<'_>, script: &str, shadow: &Shadow) -> Result<Ended, String> {
    let command = shadow.command("read");
    let words: Vec<&str> = ["sh", "-c", script, "sh"].into_iter().chain(command.iter().map(String::as_str)).collect();
    start.run(&words)
}

pub fn bare(report: &mut Report) {
    report.check("without_a_daemon_every_detour_leads_to_an_answer", || {
        for (i, (name, script)) in DETOURS.into_iter().enumerate() {
            let shadow = install_shadow(&format!("detour-{i}"))?;
            let ended = take(&Start::sending("initialize"), script, &shadow)?;
            ended.answered().map_err(|why| format!("{name}: {why}"))?;
            ensure(shadow.has_read(), || format!("{name}: it left no trace"))?;
        }
        let shadow = install_shadow("disguise")?;
        take(&Start::sending("initialize"), DISGUISE, &shadow)?;
        ensure(shadow.has_read(), || "nothing came in disguise".into())
    });
}

pub fn checks(report: &mut Report) {
    for (i, (name, script)) in DETOURS.into_iter().enumerate() {
        report.check(name, || {
            let shadow = install_shadow(&format!("evasive-{i}"))?;
            take(&judged("initialize"), script, &shadow)?.unanswered()?;
            never_read(&shadow)
        });
    }
    report.check("a_text_tool_that_rewrites_the_message_gets_none", || {
        let shadow = install_shadow("evasive-disguise")?;
        take(&judged("initialize"), DISGUISE, &shadow)?.unanswered()?;
        never_read(&shadow)
    });
    report.check("a_text_tool_that_rewrites_another_protocol_is_left_alone", || {
        let shadow = install_shadow("benign-disguise")?;
        take(&judged("acp"), DISGUISE, &shadow)?.left_alone()?;
        ensure(shadow.has_read(), || "nothing came in disguise".into())
    });
}

fn never_read(shadow: &Shadow) -> Check {
    ensure(shadow.started(), || "it was stopped before it began: that proves nothing of the handshake".into())?;
    ensure(!shadow.has_read(), || "it read the message".into())
}
