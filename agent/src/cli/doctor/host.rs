//! What this host is, and what the files on it say: no daemon is asked.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Check;
use crate::admission::clients;
use crate::api::{peer, users};
use crate::cli::instance::Instance;
use crate::config::Config;
use crate::policy::Engine;

pub fn checks(instance: &Instance) -> Vec<Check> {
    let mut checks = vec![root(), kernel(), lsm(), mount("bpffs", "bpf", "/sys/fs/bpf"), tracefs()];
    let config = match instance.config() {
        Ok(config) => {
            let path = &instance.paths.config;
            let how = if path.exists() { "is valid" } else { "is not there: the defaults hold" };
            checks.push(Check::ok("config", format!("{} {how}", path.display())));
            config
        }
        Err(e) => {
            checks.push(Check::fail("config", e.to_string(), "correct the file; the checks below use the defaults"));
            Config::default()
        }
    };
    checks.push(policies(&instance.paths.policy_dir));
    checks.push(state_dir(&instance.paths.state_dir));
    checks.push(group());
    checks.extend(client_configs(&config, &instance.paths.run_dir));
    checks
}

/// A uid that cannot be told is not taken for root's.
pub(super) fn is_root() -> bool {
    users::own_uid().is_ok_and(|uid| uid == 0)
}

fn root() -> Check {
    if is_root() {
        return Check::ok("root", "running as root");
    }
    Check::warn("root", "not running as root: some checks cannot see everything", "run `sudo lazaret doctor`")
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Check {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let number = |part: Option<&str>| part.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let mut parts = release.split(['.', '-']);
    let version = (number(parts.next()), number(parts.next()));
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Check::fail(
            "kernel",
            format!("{release} has no BTF (/sys/kernel/btf/vmlinux is missing): no program can be loaded"),
            "use a kernel that is built with CONFIG_DEBUG_INFO_BTF=y, as all large distributions' are",
        );
    }
    if version < (5, 17) {
        return Check::warn(
            "kernel",
            format!("{release} with BTF is older than 5.17: handshakes on pipes and sockets cannot be judged"),
            "use Linux 5.17 or newer",
        );
    }
    Check::ok("kernel", format!("{release} with BTF"))
}

fn lsm() -> Check {
    match read("/sys/kernel/security/lsm") {
        Some(list) if list.split(',').any(|name| name == "bpf") => {
            Check::ok("lsm", format!("bpf is in the list ({list})"))
        }
        Some(list) => Check::warn(
            "lsm",
            format!("bpf is not in the list ({list}): the tracing backend is used, which kills instead of denying"),
            format!("add lsm={list},bpf to the kernel's command line and reboot"),
        ),
        None => Check::warn(
            "lsm",
            "the list cannot be read",
            "mount securityfs: `mount -t securityfs none /sys/kernel/security`, as root",
        ),
    }
}

fn mounted(kind: &str, at: &str) -> bool {
    read("/proc/mounts").unwrap_or_default().lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(at) && fields.next() == Some(kind)
    })
}

fn mount(name: &'static str, kind: &str, at: &str) -> Check {
    if mounted(kind, at) {
        return Check::ok(name, format!("mounted at {at}"));
    }
    Check::fail(
        name,
        format!("not mounted at {at}: enforcement would end with the daemon"),
        format!("`mount -t {kind} {kind} {at}`, as root"),
    )
}

fn tracefs() -> Check {
    let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    match places.iter().find(|at| mounted("tracefs", at)) {
        Some(at) => Check::ok("tracefs", format!("mounted at {at}")),
        None => Check::ok("tracefs", "not mounted, and not needed: programs attach by BTF"),
    }
}

fn policies(dir: &Path) -> Check {
    match Engine::load(dir) {
        Ok(engine) => match engine.describe() {
            description if description.files.is_empty() => {
                Check::ok("policy", format!("{} has none: the built-in one is in force", dir.display()))
            }
            description => {
                Check::ok("policy", format!("{} policies in {} are valid", description.count, dir.display()))
            }
        },
        Err(e) => Check::fail("policy", e.to_string(), "correct the files; `lazaret policy check` tries them"),
    }
}

fn state_dir(dir: &Path) -> Check {
    let meta = match std::fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Check::ok("state", format!("{} is not there yet: the daemon makes it", dir.display()));
        }
        Err(e) => {
            return Check::warn(
                "state",
                format!("{} cannot be looked at: {e}", dir.display()),
                "run `sudo lazaret doctor`",
            );
        }
    };
    let mode = meta.mode() & 0o7777;
    if !meta.is_dir() {
        return Check::fail(
            "state",
            format!("{} is no directory", dir.display()),
            "move it away, or choose another --state-dir",
        );
    }
    if mode & 0o077 != 0 {
        return Check::fail(
            "state",
            format!("{} is open to others (mode {mode:04o}): it holds keys and secrets", dir.display()),
            format!("`chmod 700 {}`", dir.display()),
        );
    }
    Check::ok("state", format!("{} belongs to {} alone", dir.display(), users::name_of(meta.uid())))
}

fn group() -> Check {
    match users::group(peer::GROUP) {
        Some(group) if group.members.is_empty() => {
            Check::ok("group", format!("the group {} exists, without members", peer::GROUP))
        }
        Some(group) => Check::ok("group", format!("operators: root, {}", group.members.join(", "))),
        None => Check::warn(
            "group",
            format!("there is no group {}: only root can operate", peer::GROUP),
            format!(
                "`sudo lazaret` is enough. To operate without it, as root: `groupadd --system {0} && usermod -aG {0} USER`, then restart the daemon; membership hands an operator's rights, so also every approval, to everything that runs as that user, agents included",
                peer::GROUP
            ),
        ),
    }
}

fn client_configs(config: &Config, run_dir: &Path) -> Vec<Check> {
    let scan = clients::scan(&clients::homes_of_host(&config.clients.homes), &config.clients.projects, run_dir);
    let mut checks = Vec::new();
    let mut hidden = 0;
    for file in &scan.files {
        match &file.error {
            None => {}
            // Root sees them all; for others that is no fault of the file.
            Some(error) if error.contains("Permission denied") && !is_root() => hidden += 1,
            Some(error) => checks.push(Check::fail(
                "client config",
                error.clone(),
                format!("correct it: {} may start servers from it that Lazaret does not know", file.client),
            )),
        }
    }
    if hidden > 0 {
        let detail = format!("{hidden} places of other users cannot be looked at");
        checks.push(Check::warn("client config", detail, "run `sudo lazaret doctor`"));
    }
    for warning in &scan.warnings {
        checks.push(Check::warn("client config", warning.clone(), "mend this, or the newest configs are learned late"));
    }
    if checks.is_empty() {
        checks.push(Check::ok("client config", format!("{} files, all readable", scan.files.len())));
    }
    for file in &scan.files {
        for server in file.servers.iter().filter(|server| !server.door && !server.disabled) {
            let remedy = match server.url {
                None => "`lazaret shadow adopt` or `lazaret server add`, then `server approve` and `client install`",
                Some(_) => {
                    "remote servers do not go through the door yet: take it out of that config if nobody needs it"
                }
            };
            let place = file.path.display();
            let detail = format!("{} reaches {} by itself: {place}", file.client, server.name);
            checks.push(Check::warn("around the door", detail, remedy));
        }
    }
    checks
}
