//! Servers that live in one small image, and a dockerd of a test's own that may be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{House, PATIENCE, end, text};

/// The image of `servers/life.sh`, in the Docker behind `socket`: busybox and that script.
pub fn life_image(house: &House, socket: &Path) -> String {
    let root = house.path("image");
    let bin = root.join("bin");
    if !bin.exists() {
        std::fs::create_dir_all(&bin).expect("a directory can be made in the house");
        let busybox = crate::qemu::busybox().expect("busybox is installed");
        std::fs::copy(busybox, bin.join("busybox")).expect("busybox can be copied");
        std::fs::copy(super::file("servers/life.sh"), root.join("life.sh")).expect("the script can be copied");
    }
    let mut tar = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--mode=a+rX", "--directory"])
        .arg(&root)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar can be run");
    // The label lets the house remove it at its end.
    let label = format!("LABEL lazaret.instance={}", house.instance());
    let entry = r#"ENTRYPOINT ["/bin/busybox","sh","/life.sh"]"#;
    let output = docker(socket)
        .args(["import", "--change", entry, "--change", &label, "-"])
        .stdin(tar.stdout.take().expect("it is piped"))
        .output()
        .expect("the docker client can be run");
    assert!(tar.wait().expect("tar ends").success(), "the image could not be packed");
    assert!(output.status.success(), "docker import failed: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// The docker client, speaking to this socket.
pub fn docker(socket: &Path) -> Command {
    let mut command = Command::new("docker");
    command.env_remove("DOCKER_HOST").arg("--host").arg(format!("unix://{}", socket.display()));
    command
}

/// A dockerd with state and a network namespace of its own, which knows nothing of the host's.
pub struct OwnDocker {
    dir: PathBuf,
    child: Option<Child>,
}

impl OwnDocker {
    /// `None` where this host has no dockerd to start.
    pub fn start(dir: PathBuf) -> Option<Self> {
        if !["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"].iter().any(|at| Path::new(at).exists())
        {
            return None;
        }
        std::fs::create_dir_all(&dir).expect("a directory can be made in the house");
        let mut own = Self { dir, child: None };
        own.again();
        Some(own)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// Starts it on the state that it had, and waits until it answers.
    pub fn again(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("dockerd.log"));
        let log = log.expect("the log can be made");
        // In a network of its own: a dockerd that has no bridge removes the one that it finds, which is the host's.
        let mut child = Command::new("unshare")
            .args(["--net", "dockerd", "--data-root"])
            .arg(self.dir.join("data"))
            .arg("--exec-root")
            .arg(self.dir.join("exec"))
            .arg("--pidfile")
            .arg(self.dir.join("pid"))
            .arg(format!("--host=unix://{}", self.socket().display()))
            .args(["--bridge=none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("dockerd can be run");
        let ready = crate::poll(PATIENCE, || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("dockerd ended at its start ({status}):\n{}", self.log());
            }
            let probe = docker(&self.socket()).args(["info"]).output().expect("the docker client can be run");
            probe.status.success().then_some(())
        });
        self.child = Some(child);
        assert!(ready.is_some(), "dockerd did not get ready:\n{}", self.log());
    }

    /// Gives it no chance to clean up.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
        // Its containerd dies with it, and a moment later; until then the next one would wait for that in vain.
        let pid_file = self.dir.join("exec/containerd/containerd.pid");
        let pid = std::fs::read_to_string(&pid_file).unwrap_or_default();
        let lives = || std::fs::read(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| !line.is_empty());
        assert!(crate::poll(PATIENCE, || (!lives()).then_some(())).is_some(), "containerd outlives its dockerd");
        let _ = std::fs::remove_file(pid_file);
    }

    /// Ids of all containers that it knows.
    pub fn containers(&self) -> Vec<String> {
        let output = docker(&self.socket()).args(["ps", "--all", "--no-trunc", "--quiet"]).output();
        let output = output.expect("the docker client can be run");
        assert!(output.status.success(), "docker ps failed: {}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The processes that hold its containers: one for each, known by the directory that they were given.
    pub fn shims(&self) -> Vec<u32> {
        let ours = self.dir.join("exec");
        let ours = ours.to_string_lossy();
        let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_shim = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).map(|line| text(&line)).unwrap_or_default();
            line.contains("containerd-shim") && line.contains(&*ours)
        };
        pids.filter(is_shim).collect()
    }

    /// What a test that failed may have left running.
    fn kill_containers(&self) {
        for shim in self.shims() {
            let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
            let pids: Vec<String> = children.split_whitespace().map(str::to_owned).chain([shim.to_string()]).collect();
            let _ = Command::new("/bin/sh").args(["-c", "kill -s KILL \"$@\"", "sh"]).args(pids).output();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default()
    }
}

impl Drop for OwnDocker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of the test's own dockerd:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            end(&mut child, "TERM");
            if crate::poll(PATIENCE, || child.try_wait().ok().flatten()).is_none() {
                end(&mut child, "KILL");
                let _ = child.wait();
            }
        }
        self.kill_containers();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(mount).starts_with(&self.dir) {
                let _ = Command::new("umount").args(["--lazy", mount]).output();
            }
        }
    }
}
