//! Behind Podman's Docker-compatible socket a cage is as closed as behind Docker's, and what differs is said.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lazaret_tests::host::{self, House, Needs, Peer, text};
use serde_json::Value;

const AGENT: &str = "podman@ann.lazaret.local";

/// A Podman of the test's own: storage, containers and socket lie in the house.
struct Podman {
    dir: PathBuf,
    child: Child,
}

impl Podman {
    fn start(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).expect("a directory can be made in the house");
        let log = std::fs::File::create(dir.join("log")).expect("the log can be made");
        let socket = dir.join("podman.sock");
        let child = Self::command(&dir)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("podman can be run");
        let podman = Self { dir, child };
        let ready = lazaret_tests::poll(host::PATIENCE, || {
            let probe = host::docker(&podman.socket()).arg("info").output().expect("the docker client can be run");
            probe.status.success().then_some(())
        });
        assert!(ready.is_some(), "podman did not get ready:\n{}", podman.log());
        podman
    }

    fn command(dir: &Path) -> Command {
        let mut command = Command::new("podman");
        // `none` needs no network plugins; runc is what works on every layout of cgroups that these tests meet.
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        if let Some(runc) = ["/usr/sbin/runc", "/usr/bin/runc"].iter().find(|path| Path::new(path).exists()) {
            command.args(["--runtime", runc]);
        }
        command.args(["--cgroup-manager", "cgroupfs"]);
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("podman.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn ask(&self, args: &[&str]) -> String {
        let output = host::docker(&self.socket()).args(args).output().expect("the docker client can be run");
        assert!(output.status.success(), "docker {args:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    fn containers(&self) -> Vec<String> {
        self.ask(&["ps", "--all", "--no-trunc", "--quiet"]).lines().map(str::to_owned).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = Self::command(&self.dir).args(["rm", "--all", "--force", "--time", "0"]).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- podman's log:\n{}", self.log());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(mount).starts_with(&self.dir) {
                let _ = Command::new("umount").args(["--lazy", mount]).output();
            }
        }
    }
}

fn count(session: &mut Peer, server: &str) -> Result<String, String> {
    let answer: Value = serde_json::from_str(&session.call_through(server, "count", "{}")).expect("a result is JSON");
    let text = answer["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    if answer["isError"] == true { Err(text) } else { Ok(text) }
}

#[test]
fn a_cage_behind_podman_is_closed_and_serves_and_leaves_nothing() {
    let name = "a_cage_behind_podman_is_closed_and_serves_and_leaves_nothing";
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|said| said.status.success());
    if !there("podman") || !Path::new("/usr/libexec/podman/catatonit").exists() {
        return lazaret_tests::skip(name, "there is no Podman with its init here: apt-get install podman catatonit");
    }
    let podman = Podman::start(house.path("podman"));
    house.write_config(&format!("[sandbox]\ndocker = {:?}\n", podman.socket()));
    house.start("enforce");
    let status = house.json(&["status", "--json"]);
    assert_eq!(status["docker"]["engine"], "Podman", "{:#}", status["docker"]);
    let doctor = house.cli(&["doctor"]);
    let doctor = text(&doctor.stdout);
    assert!(doctor.contains("Podman ") && doctor.contains("with root"), "{doctor}");

    house.ok(&["agent", "enroll", AGENT]);
    // Podman tells the id of an import twice.
    let told = host::life_image(&house, &podman.socket());
    let id = told.split_whitespace().last().expect("an id").to_owned();
    for (server, more) in [("plain", &[][..]), ("set", &["--env", "A=hunter2"])] {
        house.ok(&[&["server", "add", server, "--image", &id][..], more].concat());
        house.ok(&["server", "approve", server, "--yes", "--no-start"]);
    }
    assert_eq!(podman.containers(), Vec::<String>::new(), "reviews leave nothing");
    let mut door = house.connect(AGENT);
    assert_eq!((count(&mut door, "plain"), count(&mut door, "plain")), (Ok("1".into()), Ok("2".into())));
    assert_eq!(count(&mut door, "set"), Ok("1".into()));
    let running = podman.containers();
    assert_eq!(running.len(), 2);
    running.iter().for_each(|id| closed(&podman, id));

    // One that dies is gone, with its last words kept, and the next call has another.
    door.call_through("plain", "die", "{}");
    let logs = house.ok(&["server", "logs", "plain"]);
    assert!(logs.contains("these are my last words"), "{logs}");
    let again = lazaret_tests::poll(host::PATIENCE, || count(&mut door, "plain").ok());
    assert_eq!(again.as_deref(), Some("1"));
    assert_eq!(podman.containers().len(), 2);

    house.kill_daemon();
    assert_eq!(podman.containers().len(), 2, "they outlive a killed daemon");
    house.start("enforce");
    assert_eq!(podman.containers(), Vec::<String>::new(), "and the next one removes them");
    assert_eq!(count(&mut house.connect(AGENT), "set"), Ok("1".into()));
    house.stop();
    assert_eq!(podman.containers(), Vec::<String>::new());
}

/// By the kernel's word, not by Podman's.
fn closed(podman: &Podman, id: &str) {
    let inspected: Value = serde_json::from_str(&podman.ask(&["inspect", id])).expect("inspect prints JSON");
    let container = &inspected[0];
    assert!(!container.to_string().contains("hunter2"), "a value of the environment stands in its description");
    let pid = container["State"]["Pid"].as_u64().unwrap_or_else(|| panic!("it does not run: {container:#}"));
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("its process can be read");
    let status = read("status");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "no {line:?} in\n{status}");
    }
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    let devices = read("net/dev");
    assert_eq!(devices.lines().filter(|line| line.contains(':')).count(), 1, "more than lo:\n{devices}");
    let mounts = read("mountinfo");
    let point = |path: &str| mounts.lines().find(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_default();
    assert!(point("/").split(' ').nth(5).is_some_and(|flags| flags.starts_with("ro")), "{mounts}");
    for path in ["/tmp", "/run", "/var/tmp"] {
        let line = point(path);
        assert!(line.contains("noexec") && line.contains("size="), "{path} is open: {line:?}");
    }
    let host = &container["HostConfig"];
    for limit in ["Memory", "PidsLimit"] {
        assert!(host[limit].as_i64().is_some_and(|value| value > 0), "{limit}: {host:#}");
    }
}
