//! A house on this host: one instance of the daemon with its own state, sockets, home directory and scope.
//!
//! Invariant: nothing outside of the house's own cgroup is ever judged by its daemon, and when the house is
//! dropped its processes, containers, cgroup and directories have gone, whether the test passed or not.

mod claude;
pub(crate) mod elf;
mod http;
mod life;
mod peer;
mod scope;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub use claude::Health;
pub use elf::write_marker_program;
pub use http::HttpSession;
pub use life::{OwnDocker, docker, life_image};
pub use peer::{Peer, result_of};
pub use scope::{Scope, hierarchy as cgroup_hierarchy};

/// Long enough for a loaded machine with two cores; what waits for less time than this is a bug.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test needs beside root and cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Docker,
}

pub struct House {
    dir: TempDir,
    pub scope: Scope,
    daemon: Option<Child>,
}

impl House {
    /// A house without a daemon yet; `None`, and a counted skip, where this host cannot have one.
    pub fn or_skip(needs: Needs) -> Option<Self> {
        match Self::obstacle(needs) {
            None => Some(Self::new()),
            Some(reason) => {
                let thread = std::thread::current();
                crate::skip(thread.name().unwrap_or("a test"), &reason);
                None
            }
        }
    }

    fn obstacle(needs: Needs) -> Option<String> {
        if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
            return Some("it loads kernel programs, which needs root".into());
        }
        if scope::hierarchy().is_none() {
            return Some("no cgroup v2 hierarchy is mounted, so that there is no scope to keep to".into());
        }
        if needs == Needs::Docker && !Path::new("/var/run/docker.sock").exists() {
            return Some("no Docker runs here; `cargo xtask test` starts one".into());
        }
        if !tools().join("sdk2/.installed").exists() || !tools().join("claude/.installed").exists() {
            return Some("the real clients and servers are not installed; `cargo xtask setup` does that".into());
        }
        None
    }

    fn new() -> Self {
        let dir =
            tempfile::Builder::new().prefix("lazaret-test-").tempdir().expect("a temporary directory can be made");
        for name in ["home", "state"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory can be made in a new one");
        }
        let scope = Scope::new();
        let house = Self { dir, scope, daemon: None };
        house.write_config("");
        house
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Home directory of the human in this house.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub fn config_file(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// `config.toml` with the house's home directory, and `more` behind it.
    pub fn write_config(&self, more: &str) {
        let text = format!("[clients]\nhomes = [{:?}]\n{more}", self.home());
        std::fs::write(self.config_file(), text).expect("the configuration can be written");
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self, mode: &str) {
        let mut child = self.spawn_daemon(mode);
        let ready = crate::poll(PATIENCE, || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("the daemon ended at its start ({status}):\n{}", self.log());
            }
            self.cli(&["status", "--json"]).status.success().then_some(())
        });
        self.daemon = Some(child);
        assert!(ready.is_some(), "the daemon did not get ready:\n{}", self.log());
    }

    /// Starts a daemon that is expected to refuse: its exit code and what it said.
    pub fn start_refused(&self, mode: &str) -> (i32, String) {
        let mut child = self.spawn_daemon(mode);
        let Some(status) = crate::poll(PATIENCE, || child.try_wait().expect("a child can be waited for")) else {
            end(&mut child, "KILL");
            panic!("the daemon runs, although it should refuse to:\n{}", self.log());
        };
        (status.code().unwrap_or(-1), self.log())
    }

    fn spawn_daemon(&self, mode: &str) -> Child {
        let log = std::fs::File::create(self.path("daemon.log")).expect("the log can be made");
        self.lazaret()
            .args(["daemon", "--mode", mode, "--detach-on-exit", "--scope"])
            .arg(format!("cgroup:{}", self.scope.path().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("the binary can be run")
    }

    /// Ends the daemon as an operator would, and waits until it has gone.
    pub fn stop(&mut self) {
        let Some(mut child) = self.daemon.take() else { return };
        end(&mut child, "TERM");
        if crate::poll(PATIENCE, || child.try_wait().ok().flatten()).is_none() {
            end(&mut child, "KILL");
            panic!("the daemon did not end at SIGTERM:\n{}", self.log());
        }
    }

    /// Ends the daemon without giving it a chance to clean up.
    pub fn kill_daemon(&mut self) {
        let Some(mut child) = self.daemon.take() else { return };
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
    }

    /// Its process, while it runs.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// What the daemon has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The binary, pointed at this house; not in the scope.
    pub fn lazaret(&self) -> Command {
        let mut command = Command::new(binary());
        self.surroundings(&mut command);
        command
    }

    /// `program` in the scope of this house's daemon.
    pub fn in_scope(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.scope.command(program.as_ref());
        self.surroundings(&mut command);
        command
    }

    fn surroundings(&self, command: &mut Command) {
        command
            .env("HOME", self.home())
            .env("LAZARET_CONFIG", self.config_file())
            .env("LAZARET_STATE_DIR", self.state_dir())
            .env("LAZARET_RUN_DIR", self.run_dir())
            .current_dir(self.home());
        for name in ["XDG_CONFIG_HOME", "LAZARET_KEY_DIR", "LAZARET_BPF_DIR", "LAZARET_POLICY_DIR", "SUDO_UID"] {
            command.env_remove(name);
        }
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        self.lazaret().args(args).stdin(Stdio::null()).output().expect("the binary can be run")
    }

    /// Runs a verb that must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "`lazaret {}` failed: {}\n{out}{err}\ndaemon:\n{}",
            args.join(" "),
            output.status,
            self.log()
        );
        out
    }

    /// Runs a verb that must fail: its exit code and what it said.
    pub fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.cli(args);
        let said = text(&output.stderr);
        assert!(!output.status.success(), "`lazaret {}` succeeded:\n{}{said}", args.join(" "), text(&output.stdout));
        (output.status.code().unwrap_or(-1), said)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(args);
        serde_json::from_str(&out)
            .unwrap_or_else(|e| panic!("`lazaret {}` printed no JSON ({e}):\n{out}", args.join(" ")))
    }

    /// Records of `shadow list` whose config entry has this name.
    pub fn shadows_named(&self, name: &str) -> Vec<Value> {
        let list = self.json(&["shadow", "list", "--json"]);
        let shadows = list["shadows"].as_array().cloned().unwrap_or_default();
        shadows.into_iter().filter(|shadow| shadow["config_source"]["name"] == name).collect()
    }

    /// Waits for a record whose config entry has this name.
    pub fn shadow_named(&self, name: &str) -> Value {
        crate::poll(PATIENCE, || self.shadows_named(name).pop()).unwrap_or_else(|| {
            panic!("no shadow record for {name}:\n{}\n{}", self.ok(&["shadow", "list", "--json"]), self.log())
        })
    }

    /// Ids of every container that this house's daemon made and did not remove.
    pub fn containers(&self) -> Vec<String> {
        self.labelled(&["ps", "--all", "--no-trunc"])
    }

    fn labelled(&self, listing: &[&str]) -> Vec<String> {
        let filter = format!("label=lazaret.instance={}", self.instance());
        let output = Command::new("docker").args(listing).args(["--quiet", "--filter", &filter]).output();
        let output = output.expect("the docker client can be run");
        assert!(output.status.success(), "docker {listing:?} failed: {}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Containers that are left only after a failure, the images of the house, and the cages' cgroup parent.
    fn remove_from_docker(&self) {
        for id in self.containers() {
            let _ = Command::new("docker").args(["rm", "--force", &id]).output();
        }
        for id in self.labelled(&["images"]) {
            let _ = Command::new("docker").args(["rmi", "--force", &id]).output();
        }
        let Some(hierarchies) = scope::hierarchy().and_then(|v2| v2.parent().map(Path::to_path_buf)) else { return };
        for hierarchy in std::fs::read_dir(hierarchies).into_iter().flatten().flatten() {
            // Most hierarchies have none; one that holds something is not ours to remove.
            let _ = std::fs::remove_dir(hierarchy.path().join(format!("lazaret-{}", self.instance())));
        }
    }

    /// How containers and pins of this house are labelled: the start of the digest of its state directory.
    pub fn instance(&self) -> String {
        let mut sum =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("coreutils");
        let path = self.state_dir();
        std::io::Write::write_all(&mut sum.stdin.take().expect("stdin is piped"), path.as_os_str().as_encoded_bytes())
            .expect("sha256sum reads");
        let output = sum.wait_with_output().expect("sha256sum ends");
        text(&output.stdout)[..12].to_owned()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            end(&mut child, "TERM");
            if crate::poll(PATIENCE, || child.try_wait().ok().flatten()).is_none() {
                end(&mut child, "KILL");
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log:\n{}", self.log());
        }
        if Path::new("/var/run/docker.sock").exists() {
            self.remove_from_docker();
        }
        // Pins that a killed daemon left; the daemon takes them out itself otherwise.
        let pins = format!("/sys/fs/bpf/lazaret-{}", self.instance());
        if Path::new(&pins).exists() {
            let _ = self.cli(&["daemon", "--detach"]);
        }
    }
}

/// By the shell's own `kill`: a minimal Debian has no program of that name.
fn end(child: &mut Child, signal: &str) {
    let sent = Command::new("/bin/sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &child.id().to_string()]).output();
    sent.expect("a shell can be run");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The binary under test: where cargo puts it beside the tests.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own file");
    let binary = own.ancestors().nth(2).expect("tests lie in deps below the profile's directory").join("lazaret");
    assert!(binary.exists(), "{} is not built; run `cargo build -p lazaret` first", binary.display());
    binary
}

/// Real clients and servers, where `cargo xtask setup` puts them.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// A file of this package.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn target() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own file");
    own.ancestors().nth(3).expect("tests lie in target/debug/deps").to_path_buf()
}

/// The entry point of the npm server that exercises every feature, run bare by node.
pub fn everything() -> PathBuf {
    tools().join("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js")
}

/// The Python of an SDK's environment: `sdk1` or `sdk2`.
pub fn python(sdk: &str) -> PathBuf {
    tools().join(sdk).join("bin/python")
}
