use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::identity::{Drift, PartKind};

/// A client that runs, in a home and a project of its own.
struct Scene {
    dir: tempfile::TempDir,
    digests: Arc<Digests>,
    client: Child,
}

/// `sleep` under the name of Claude Code.
fn scene(args: &[&str]) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    for below in ["home/.claude", "project", "bin"] {
        fs::create_dir_all(dir.path().join(below)).unwrap();
    }
    // A shell, so that it takes any arguments: what follows the script is not read.
    fs::copy("/bin/sh", dir.path().join("bin/claude")).unwrap();
    fs::write(dir.path().join("home/.claude.json"), r#"{"numStartups":1,"mcpServers":{}}"#).unwrap();
    let client = start(dir.path(), args);
    Scene { dir, digests: Arc::default(), client }
}

fn start(dir: &Path, args: &[&str]) -> Child {
    let mut client = Command::new(dir.join("bin/claude"))
        .args(["-c", "echo up; read x", "claude"])
        .args(args)
        .env("HOME", dir.join("home"))
        .env_remove("CLAUDE_CONFIG_DIR")
        .current_dir(dir.join("project"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "up");
    client
}

impl Scene {
    fn path(&self, below: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(below)
    }

    fn survey(&self) -> Survey {
        let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap());
        Survey::take(self.client.id(), &[], uid, &self.digests, || true)
    }

    fn measure(&self) -> Measurement {
        Measurement::of(self.survey().parts().to_vec())
    }

    fn restart(&mut self, args: &[&str]) {
        self.client.kill().and_then(|()| self.client.wait()).unwrap();
        self.client = start(self.dir.path(), args);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ended = self.client.kill().and_then(|()| self.client.wait());
    }
}

fn drift(before: &Measurement, now: &Measurement) -> Vec<(Drift, PartKind, String)> {
    before.drift_to(now).into_iter().map(|(drift, part)| (drift, part.kind, part.name)).collect()
}

#[test]
fn two_starts_of_one_client_are_the_same_and_each_change_is_named() {
    let mut scene = scene(&["--model", "opus"]);
    let first = scene.measure();
    scene.restart(&["--model", "opus"]);
    fs::write(scene.path("home/.claude.json"), r#"{"numStartups":2,"mcpServers":{}}"#).unwrap();
    assert_eq!(drift(&first, &scene.measure()), []);

    let changes: [(&str, &str, PartKind, Drift); 4] = [
        ("project/CLAUDE.md", "be good", PartKind::Instructions, Drift::Added),
        ("project/.mcp.json", "{}", PartKind::McpConfig, Drift::Added),
        ("home/.claude.json", r#"{"mcpServers":{"x":{}}}"#, PartKind::McpConfig, Drift::Changed),
        ("home/.claude/settings.json", r#"{"hooks":{}}"#, PartKind::Instructions, Drift::Added),
    ];
    let mut before = scene.measure();
    for (path, text, kind, how) in changes {
        fs::write(scene.path(path), text).unwrap();
        let now = scene.measure();
        assert_eq!(drift(&before, &now), [(how, kind, scene.path(path).to_string_lossy().into_owned())]);
        before = now;
    }
    fs::create_dir_all(scene.path("home/.claude/agents/deep")).unwrap();
    fs::write(scene.path("home/.claude/agents/deep/a.md"), "x").unwrap();
    let now = scene.measure();
    let name = scene.path("home/.claude/agents/deep/a.md").to_string_lossy().into_owned();
    assert_eq!(drift(&before, &now), [(Drift::Added, PartKind::Instructions, name)]);

    scene.restart(&["--model", "haiku"]);
    assert_eq!(drift(&now, &scene.measure()), [(Drift::Changed, PartKind::Argv, "claude-code".into())]);
    scene.restart(&["--model", "opus"]);
    assert_eq!(drift(&now, &scene.measure()), []);

    // Another program under the same name.
    let mut bytes = fs::read(scene.path("bin/claude")).unwrap();
    bytes.push(0);
    fs::remove_file(scene.path("bin/claude")).unwrap();
    fs::write(scene.path("bin/claude"), bytes).unwrap();
    fs::set_permissions(scene.path("bin/claude"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(drift(&now, &scene.measure()), [], "the one that runs is still the former one");
    scene.restart(&["--model", "opus"]);
    let exe = scene.path("bin/claude").to_string_lossy().into_owned();
    assert_eq!(drift(&now, &scene.measure()), [(Drift::Changed, PartKind::Executable, exe)]);
}

/// Whoever keeps these files under version control links them to where they are used.
#[test]
fn instructions_behind_a_linked_directory_are_measured_and_a_link_in_a_circle_ends() {
    let scene = scene(&[]);
    fs::create_dir_all(scene.path("dotfiles/deploy")).unwrap();
    fs::write(scene.path("dotfiles/deploy/SKILL.md"), "deploy").unwrap();
    let before = scene.measure();
    fs::create_dir_all(scene.path("home/.claude/skills")).unwrap();
    std::os::unix::fs::symlink(scene.path("dotfiles/deploy"), scene.path("home/.claude/skills/deploy")).unwrap();
    let linked = scene.measure();
    let skill = scene.path("home/.claude/skills/deploy/SKILL.md").to_string_lossy().into_owned();
    assert_eq!(drift(&before, &linked), [(Drift::Added, PartKind::Instructions, skill.clone())]);
    let survey = scene.survey();
    fs::write(scene.path("dotfiles/deploy/SKILL.md"), "deploy to production").unwrap();
    assert!(!survey.still_holds(), "a change of what a link leads to is seen");
    assert_eq!(drift(&linked, &scene.measure()), [(Drift::Changed, PartKind::Instructions, skill)]);
    std::os::unix::fs::symlink(".", scene.path("home/.claude/skills/again")).unwrap();
    assert!(scene.measure().parts.len() < 1000);
}

#[test]
fn a_survey_holds_until_something_of_it_changes() {
    let scene = scene(&[]);
    for path in ["project/CLAUDE.md", "home/.claude/settings.json", "home/.claude/CLAUDE.md"] {
        let survey = scene.survey();
        assert!(survey.still_holds());
        fs::write(scene.path(path), "x").unwrap();
        assert!(!survey.still_holds(), "{path} was made");
        let survey = scene.survey();
        fs::write(scene.path(path), "longer").unwrap();
        assert!(!survey.still_holds(), "{path} was changed");
        let survey = scene.survey();
        fs::remove_file(scene.path(path)).unwrap();
        assert!(!survey.still_holds(), "{path} was removed");
    }
    fs::create_dir_all(scene.path("home/.claude/agents")).unwrap();
    let survey = scene.survey();
    fs::write(scene.path("home/.claude/agents/a.md"), "x").unwrap();
    assert!(!survey.still_holds(), "a file came into a directory");
}

#[test]
fn no_word_of_a_command_line_or_config_is_kept() {
    let scene = scene(&["--api-key", "hunter2-secret"]);
    fs::write(scene.path("project/.mcp.json"), r#"{"mcpServers":{"a":{"env":{"K":"hunter3-secret"}}}}"#).unwrap();
    let text = serde_json::to_string(&scene.measure()).unwrap();
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_link_to_another_user_s_file_is_named_and_not_read() {
    let scene = scene(&[]);
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) != 0 {
        eprintln!("SKIP: making files of other users needs root");
        return;
    }
    fs::write(scene.path("theirs"), "secret").unwrap();
    std::os::unix::fs::chown(scene.path("theirs"), Some(1234), None).unwrap();
    std::os::unix::fs::symlink(scene.path("theirs"), scene.path("project/CLAUDE.md")).unwrap();
    let measurement = scene.measure();
    let part = measurement.parts.iter().find(|part| part.name.ends_with("project/CLAUDE.md")).unwrap();
    assert_eq!(part.digest, "unmeasured: a file of uid 1234");
}

#[test]
fn a_script_between_client_and_connector_is_a_part_of_its_own() {
    let scene = scene(&[]);
    let direct = scene.measure();
    let mut script = Command::new("sleep").arg("60").spawn().unwrap();
    let between = crate::kernel::tree::stat(script.id()).unwrap().process;
    let now = Measurement::of(Survey::take(scene.client.id(), &[between], 0, &scene.digests, || true).parts().to_vec());
    script.kill().and_then(|()| script.wait()).unwrap();
    let kinds: Vec<_> = direct.drift_to(&now).into_iter().map(|(drift, part)| (drift, part.kind)).collect();
    assert_eq!(kinds, [(Drift::Added, PartKind::Executable), (Drift::Added, PartKind::Argv)]);
}

struct Counter(AtomicU64);

impl Surroundings for Counter {
    fn parts(&self) -> Vec<Part> {
        let digest = format!("sha256:{}", self.0.load(Ordering::Relaxed));
        vec![Part { kind: PartKind::Tools, name: "tools".into(), digest }]
    }
}

#[test]
fn a_witness_sees_what_changes_around_the_client_too() {
    let (_door, client) = std::os::unix::net::UnixStream::pair().unwrap();
    let peer = crate::identity::Peer { uid: 0, gid: 0, pid: i32::try_from(std::process::id()).ok() };
    let process = PeerProcess::of(std::os::fd::AsFd::as_fd(&client), peer).unwrap();
    let counter = Arc::new(Counter(AtomicU64::new(1)));
    let witness = Witness::new(process, Arc::default(), counter.clone());
    assert_eq!(witness.check(), Ok(()));
    let first = witness.now();
    assert!(Arc::ptr_eq(&first, &witness.now()), "nothing has changed");
    counter.0.store(2, Ordering::Relaxed);
    let began = Instant::now();
    while Arc::ptr_eq(&first, &witness.now()) {
        assert!(began.elapsed() < Duration::from_secs(30), "the change is not seen");
    }
    let changed: Vec<_> = first.drift_to(&witness.now()).into_iter().map(|(_, part)| part.kind).collect();
    assert_eq!(changed, [PartKind::Tools]);
}
