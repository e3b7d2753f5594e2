//! What the kernel says of a cage's first process, while that still waits for its word to begin.
//!
//! An engine's account of its settings is only its account. Invariant: a process is proven only if it is in the
//! container's own control group; where nothing can be read, nothing is proven.

use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The walls that are missing around `pid`, the first process of `container`, each in a few words; empty where all
/// stand.
pub(super) fn missing(pid: u32, container: &str) -> Vec<String> {
    let dir = format!("/proc/{pid}");
    let Ok(status) = std::fs::read_to_string(Path::new(&dir).join("status")) else {
        return vec!["its first process is not one of this host".into()];
    };
    let cgroups = std::fs::read_to_string(Path::new(&dir).join("cgroup")).unwrap_or_default();
    // An engine in a PID namespace of its own counts otherwise, and its number is somebody else's here.
    if container.is_empty() || !cgroups.contains(container) {
        return vec!["what it calls its first process is in another control group".into()];
    }
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

/// Which of the limits on `pid` the kernel does not hold, on cgroup v2: an engine without root can only set those that
/// were delegated to its user.
pub(super) fn unlimited(pid: u32, memory: i64, processes: i64) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    match cgroup(&text) {
        Some(group) => too_wide(Path::new(CGROUPS), &group, memory, processes),
        None => vec!["its control group is not of cgroup v2: nothing says what it may use".into()],
    }
}

/// Below the hierarchy's mount. `None` where there is none, or it is outside of what is mounted here.
fn cgroup(proc: &str) -> Option<PathBuf> {
    let path = Path::new(proc.lines().find_map(|line| line.strip_prefix("0::/"))?);
    let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (inside && path != Path::new("")).then(|| path.to_owned())
}

/// A limit holds for a group if it or one that it is in has it, or a smaller one.
fn too_wide(root: &Path, group: &Path, memory: i64, processes: i64) -> Vec<String> {
    let limited = |file: &str, most: i64| {
        group.ancestors().filter(|group| *group != Path::new("")).any(|group| {
            let text = std::fs::read_to_string(root.join(group).join(file)).unwrap_or_default();
            text.trim().parse::<i64>().is_ok_and(|limit| limit <= most)
        })
    };
    [("memory.max", memory, "memory"), ("pids.max", processes, "processes")]
        .into_iter()
        .filter(|(file, most, _)| !limited(file, *most))
        .map(|(file, most, what)| format!("the kernel does not limit its {what} ({file} is above {most})"))
        .collect()
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
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let found = missing(std::process::id(), own.lines().next().unwrap());
        assert!(found.iter().any(|what| what.contains("network")), "{found:?}");
        assert_eq!(missing(u32::MAX, "x").len(), 1);
        for other in [&"0".repeat(64), ""] {
            let found = missing(std::process::id(), other);
            assert!(found.len() == 1 && found[0].contains("another control group"), "{found:?}");
        }
    }

    #[test]
    fn a_limit_is_the_kernels_word_or_none() {
        let root = tempfile::tempdir().unwrap();
        let group = Path::new("user.slice/cage.scope/container");
        std::fs::create_dir_all(root.path().join(group)).unwrap();
        let write = |group: &str, file: &str, text: &str| {
            std::fs::write(root.path().join(group).join(file), text).unwrap();
        };
        let missing = || too_wide(root.path(), group, 64 << 20, 128);
        assert_eq!(missing().len(), 2, "what cannot be read limits nothing");
        for (memory, pids, open) in [("max", "max", 2), ("67108864", "max", 1), ("67108865", "129", 2)] {
            write("user.slice/cage.scope", "memory.max", &format!("{memory}\n"));
            write("user.slice/cage.scope", "pids.max", &format!("{pids}\n"));
            assert_eq!(missing().len(), open, "{memory} {pids}: {:?}", missing());
        }
        // The group's own files say nothing where the one that it is in limits both.
        write("user.slice/cage.scope/container", "memory.max", "max\n");
        write("user.slice/cage.scope", "memory.max", "67108864\n");
        write("user.slice/cage.scope", "pids.max", "128\n");
        assert_eq!(missing(), [""; 0]);
    }

    #[test]
    fn a_control_group_that_is_not_below_the_mount_is_none() {
        assert_eq!(cgroup("0::/a/b.scope\n"), Some("a/b.scope".into()));
        for other in ["0::/../b\n", "0::/\n", "5:pids:/a\n", "", "0::/a/../../b\n"] {
            assert_eq!(cgroup(other), None, "{other:?}");
        }
    }
}
