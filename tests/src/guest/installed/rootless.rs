//! Engines that a user runs, on cgroup v2 with memory and pids delegated to that user by systemd: cages behind them are
//! as closed and as limited as behind an engine of root's, by the kernel's word.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::super::docker::{AGENT, CLIENT, IMAGE, call, import, shell};
use super::super::report::{Check, Report, ensure};
use super::{START, active, answers, configure, doctor, done, status_of, systemctl};
use crate::poll;

const MEMORY: u64 = 64 << 20;
const PROCESSES: u64 = 64;
/// With a variable, a host that it may reach, and the loosening that this is.
const OPEN: &str = "open";
/// Built here, of a file.
const LOCAL: &str = "local";

struct Engine {
    name: &'static str,
    socket: &'static str,
    /// As the user.
    start: fn() -> Check,
    /// What a check of it is called.
    checks: [&'static str; 5],
}

const ENGINES: [Engine; 2] = [
    Engine {
        name: "Podman",
        socket: "/run/user/1000/podman/podman.sock",
        start: || user_systemctl(&["enable", "--now", "podman.socket"]),
        checks: [
            "doctor_says_what_differs_with_rootless_podman",
            "a_server_behind_rootless_podman_is_approved_and_answers_from_a_closed_cage",
            "a_cage_behind_rootless_podman_gets_no_more_memory_and_processes_than_it_may",
            "a_cage_behind_rootless_podman_gets_its_variables_and_its_egress",
            "an_image_of_a_file_is_made_behind_rootless_podman",
        ],
    },
    Engine {
        name: "Docker",
        socket: "/run/user/1000/docker.sock",
        start: start_docker,
        checks: [
            "doctor_says_what_differs_with_rootless_docker",
            "a_server_behind_rootless_docker_is_approved_and_answers_from_a_closed_cage",
            "a_cage_behind_rootless_docker_gets_no_more_memory_and_processes_than_it_may",
            "a_cage_behind_rootless_docker_gets_its_variables_and_its_egress",
            "an_image_of_a_file_is_made_behind_rootless_docker",
        ],
    },
];

pub fn session(report: &mut Report) {
    let ready = || {
        // Its unit asks for it, and root's Docker is not what is looked at.
        systemctl(&["mask", "docker.service", "docker.socket"])?;
        user_ready()
    };
    if let Err(why) = ready() {
        return report.failed("the_guest_has_a_user_with_services", &why);
    }
    for engine in &ENGINES {
        checks(report, engine);
    }
}

fn checks(report: &mut Report, engine: &Engine) {
    let [differs, answered, limited, opened, built] = engine.checks;
    report.check(differs, || {
        (engine.start)()?;
        let up = poll(START, || shell(&format!("{} info", client(engine))).ok());
        ensure(up.is_some(), || format!("rootless {} did not answer within {START:?}", engine.name))?;
        // Nobody's servers are judged but those of a user who runs none: the kernel does not trust a user's engine.
        configure(&format!(
            "[kernel]\nmode = \"enforce\"\nscope = \"uid:2000\"\n[sandbox]\ndocker = {:?}\nbase_image = {IMAGE:?}\n\
             memory_bytes = {MEMORY}\npids = {PROCESSES}\nstart_timeout_secs = 120\n",
            engine.socket
        ))?;
        systemctl(&["restart", super::UNIT])?;
        active()?;
        // Emulated and idle, an engine that its socket starts may be slower than `doctor` waits for.
        let told = ["rootless", "cgroup v2 by systemd", "it runs as user 1000", engine.name];
        let mut last = None;
        let all = poll(START, || {
            last = Some(doctor("docker"));
            let (verdict, detail) = last.as_ref()?.as_ref().ok()?;
            (verdict == "warn" && told.iter().all(|part| detail.contains(part))).then_some(())
        });
        ensure(all.is_some(), || format!("it says: {last:?}"))
    });
    report.check(answered, || {
        import(&client(engine))?;
        if engine.name == "Podman" {
            done(&["agent", "enroll", AGENT])?;
        }
        let server = server(engine, "plain");
        done(&["server", "add", &server, "--image", IMAGE])?;
        done(&["server", "approve", &server, "--yes"])?;
        answers(&server)?;
        closed(engine, &server)
    });
    report.check(limited, || {
        let server = server(engine, "plain");
        let text = call(&server, &json!({"hog": true}))?;
        ensure(text == "ended with 137", || format!("of a program that takes all memory it says: {text}"))?;
        let text = call(&server, &json!({"fork": true}))?;
        ensure(text == "it could not", || format!("of 400 processes it says: {text}"))?;
        answers(&server)
    });
    report.check(opened, || {
        let server = server(engine, OPEN);
        done(&["server", "add", &server, "--image", IMAGE, "--env", "A=hunter2", "--egress", "example.com:443"])?;
        done(&["server", "approve", &server, "--yes"])?;
        let text = call(&server, &json!({"variable": true}))?;
        ensure(text == "A is hunter2", || format!("it says: {text}"))?;
        let listens = fs::read_to_string(format!("/proc/{}/net/tcp", pid(engine, &server)?));
        let listens = listens.map_err(|e| format!("cannot look into its network: {e}"))?;
        ensure(listens.lines().count() > 1, || "nothing listens for its egress".into())?;
        closed(engine, &server)
    });
    report.check(built, || {
        let server = server(engine, LOCAL);
        fs::write("/srv/server.sh", include_str!("../container-server.sh")).map_err(|e| e.to_string())?;
        done(&["server", "add", &server, "--local", "/srv/server.sh", "--", "/bin/sh", "{src}"])?;
        done(&["server", "approve", &server, "--yes"])?;
        answers(&server)?;
        // Nothing is left when the daemon has gone.
        systemctl(&["stop", super::UNIT])?;
        let left = shell(&format!("{} ps --all --quiet", client(engine)))?;
        ensure(left.is_empty(), || format!("containers are left: {left}"))
    });
}

fn server(engine: &Engine, what: &str) -> String {
    format!("{}-{what}", engine.name.to_lowercase())
}

fn client(engine: &Engine) -> String {
    format!("{CLIENT} --host unix://{}", engine.socket)
}

/// The first process of a server's cage, as this kernel counts.
fn pid(engine: &Engine, server: &str) -> Result<u32, String> {
    let client = client(engine);
    let command =
        format!("{client} inspect --format '{{{{.State.Pid}}}}' $({client} ps --quiet --filter name={server})");
    let text = shell(&command)?;
    text.trim().parse().map_err(|e| format!("{text:?} is no process: {e}"))
}

/// By the kernel's word: no power, no root, no network, and limits on what it takes.
fn closed(engine: &Engine, server: &str) -> Check {
    let pid = pid(engine, server)?;
    let status = status_of(pid)?;
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure(status.contains(line), || format!("no {line:?} in {status}"))?;
    }
    // The cage's user, as one of those that were given to the user who runs the engine.
    ensure(status.contains("Uid:\t165533\t165533\t165533\t165533"), || format!("it is another user: {status}"))?;
    let read = |path: String| fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"));
    let devices = read(format!("/proc/{pid}/net/dev"))?;
    ensure(devices.lines().filter(|line| line.contains(':')).count() == 1, || format!("more than lo: {devices}"))?;
    let cgroup = read(format!("/proc/{pid}/cgroup"))?;
    let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    ensure(cgroup.contains("user@1000.service"), || format!("it is in {cgroup}, not among its user's"))?;
    for (file, limit) in [("memory.max", MEMORY), ("pids.max", PROCESSES)] {
        // crun puts the processes one level below the group that it limits.
        let of = |dir: &str| fs::read_to_string(format!("/sys/fs/cgroup{dir}/{file}")).unwrap_or_default();
        let parent = cgroup.rsplit_once('/').map_or("", |(parent, _)| parent);
        let found = [of(cgroup), of(parent)];
        ensure(found.iter().any(|text| text.trim() == limit.to_string()), || format!("{file} is {found:?}"))?;
    }
    Ok(())
}

/// `systemctl --user` of the user who runs the engines.
fn user_systemctl(words: &[&str]) -> Check {
    systemctl(&[&["--user", "--machine", "dev@"], words].concat()).map(drop)
}

/// The user's own systemd runs without a login.
fn user_ready() -> Check {
    let ready = poll(START, || user_systemctl(&["is-active", "basic.target"]).ok());
    ensure(ready.is_some(), || "the user's systemd did not start".into())
}

/// As Docker's documentation has it: by its own tool, which makes a unit of the user's.
fn start_docker() -> Check {
    const TOOL: &str = "/usr/bin/dockerd-rootless-setuptool.sh";
    const INSTALL: &str = "mkdir -p .config/docker && echo \"$1\" > .config/docker/daemon.json && \"$0\" install";
    let output = Command::new("runuser")
        .args(["--user", "dev", "--", "env", "HOME=/home/dev", "XDG_RUNTIME_DIR=/run/user/1000"])
        .args(["sh", "-c", INSTALL, TOOL, super::DOCKERD])
        .current_dir("/home/dev")
        .output()
        .map_err(|e| format!("cannot run {TOOL}: {e}"))?;
    let made = Path::new("/home/dev/.config/systemd/user/docker.service").exists();
    // It gives dockerd three seconds, which is not enough here, and says then that it failed.
    ensure(output.status.success() || made, || {
        format!("{TOOL}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })?;
    user_systemctl(&["enable", "--now", "docker.service"])
}
