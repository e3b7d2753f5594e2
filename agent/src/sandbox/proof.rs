//! What the kernel says of a cage's first process, while that still waits for its word to begin.
//!
//! An engine's account of its settings is only its account. Invariant: a process is proven only if it is in the
//! container's own control group or is no process of the daemon's surroundings at all; where nothing can be read,
//! nothing is proven.

use std::path::Path;

/// The walls that are missing around `pid`, each in a few words; empty where all stand.
pub(super) fn missing(pid: u32) -> Vec<String> {
    let dir = format!("/proc/{pid}");
    let Ok(status) = std::fs::read_to_string(Path::new(&dir).join("status")) else {
        return vec!["its first process is not one of this host".into()];
    };
    let link = |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
    let apart = |name: &str| link(&pid.to_string(), name).is_some_and(|ns| Some(ns) != link("self", name));
    let mut missing = judged(&status);
    for (name, what) in [("net", "network"), ("pid", "processes"), ("mnt", "files"), ("ipc", "memory segments")] {
        if !apart(name) {
            missing.push(format!("it shares the host's {what}"));
        }
    }
    missing
}

/// From the text of `/proc/PID/status`.
fn judged(status: &str) -> Vec<String> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).unwrap_or("unknown")
    };
    let mut missing = Vec::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = field(set);
        if bits.is_empty() || bits.chars().any(|digit| digit != '0') {
            missing.push(format!("it has capabilities ({set} {bits})"));
        }
    }
    if field("NoNewPrivs") != "1" {
        missing.push("new privileges are possible".into());
    }
    if field("Seccomp") != "2" {
        missing.push("its system calls are not filtered".into());
    }
    if field("Uid").split_whitespace().any(|uid| uid == "0" || uid.parse::<u32>().is_err()) {
        missing.push("it runs as root".into());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: &str = "Name:\tsh\nUid:\t65534\t65534\t65534\t65534\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                          CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn each_wall_is_missed_by_name() {
        assert_eq!(judged(CLOSED), [""; 0]);
        for (from, to, what) in [
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400", "capabilities"),
            ("CapEff:\t0000000000000000", "CapEff:\t", "capabilities"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "privileges"),
            ("Seccomp:\t2", "Seccomp:\t0", "filtered"),
            ("Uid:\t65534\t65534", "Uid:\t65534\t0", "root"),
        ] {
            let found = judged(&CLOSED.replace(from, to));
            assert!(found.len() == 1 && found[0].contains(what), "{to}: {found:?}");
        }
        assert_eq!(judged("").len(), 8, "what does not stand there is not proven");
    }

    #[test]
    fn a_process_of_the_host_is_no_cage() {
        let found = missing(std::process::id());
        assert!(found.iter().any(|what| what.contains("network")), "{found:?}");
        assert_eq!(missing(u32::MAX).len(), 1);
    }
}
