//! The watch over real directories.

use super::*;
use crate::admission::clients::MAX_PROJECTS;

const ENTRY: &str = r#"{"mcpServers":{"time":{"command":"uvx","args":["mcp-server-time"]}}}"#;

/// Waits for a scan that satisfies `want`, with a deadline.
fn wait_for(watch: &ClientWatch, want: impl Fn(&Scan) -> bool) -> Arc<Scan> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut scans = watch.scans.clone();
    runtime.block_on(async {
        let found = tokio::time::timeout(Duration::from_secs(60), scans.wait_for(|scan| want(scan))).await;
        found.expect("the change was not seen").unwrap().clone()
    })
}

fn count(scan: &Scan, under: &Path) -> usize {
    scan.files.iter().filter(|file| file.path.starts_with(under)).map(|file| file.servers.len()).sum()
}

#[test]
fn a_storm_of_events_is_not_kept_and_its_last_change_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, "{}").unwrap();
    let watch = watch(dir.path());
    for _ in 0..2 * 4096 {
        std::fs::write(&path, "{ }").unwrap();
    }
    std::fs::write(&path, ENTRY).unwrap();
    wait_for(&watch, |scan| count(scan, dir.path()) == 1);
}

fn watch(home: &Path) -> ClientWatch {
    ClientWatch::of(vec![home.into()], vec![], Path::new("/run/lazaret")).unwrap()
}

#[test]
fn a_config_that_appears_is_renamed_over_changed_and_removed_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let watch = watch(home);
    assert_eq!(count(&watch.current(), home), 0);

    let path = home.join(".claude.json");
    std::fs::write(&path, ENTRY).unwrap();
    let first = wait_for(&watch, |scan| count(scan, home) == 1);

    std::fs::write(home.join("new"), ENTRY.replace("}}}", "},\"b\":{\"command\":\"b\"}}}")).unwrap();
    std::fs::rename(home.join("new"), &path).unwrap();
    let second = wait_for(&watch, |scan| count(scan, home) == 2);
    assert!(second.generation > first.generation);

    std::fs::remove_file(&path).unwrap();
    wait_for(&watch, |scan| count(scan, home) == 0);
}

#[test]
fn a_config_in_directories_that_do_not_exist_yet_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let watch = watch(dir.path());
    let deep = dir.path().join(".config/Claude");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("claude_desktop_config.json"), ENTRY).unwrap();
    wait_for(&watch, |scan| count(scan, dir.path()) == 1);
    std::fs::remove_dir_all(dir.path().join(".config")).unwrap();
    wait_for(&watch, |scan| count(scan, dir.path()) == 0);
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("claude_desktop_config.json"), ENTRY).unwrap();
    wait_for(&watch, |scan| count(scan, dir.path()) == 1);
}

#[test]
fn a_config_behind_a_link_is_seen_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let (home, dotfiles) = (dir.path().join("home"), dir.path().join("dotfiles"));
    std::fs::create_dir_all(&home).unwrap();
    std::fs::create_dir_all(&dotfiles).unwrap();
    std::fs::write(dotfiles.join("c.json"), "{}").unwrap();
    std::os::unix::fs::symlink(dotfiles.join("c.json"), home.join(".claude.json")).unwrap();
    let watch = watch(&home);
    std::fs::write(dotfiles.join("c.json"), ENTRY).unwrap();
    wait_for(&watch, |scan| count(scan, &home) == 1);
}

#[test]
fn a_broken_config_does_not_make_its_servers_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, ENTRY).unwrap();
    let watch = watch(dir.path());
    std::fs::write(&path, "{\n  \"mcpServers\": {,").unwrap();
    // A write begins with an empty file, which may be seen too.
    let scan = wait_for(&watch, |scan| {
        let mut errors = scan.files.iter().filter_map(|file| file.error.as_deref());
        errors.any(|error| error.contains(".claude.json: line 2, column 18"))
    });
    assert_eq!(count(&scan, dir.path()), 1);
}

#[test]
fn homes_and_projects_that_are_added_are_known_at_once_and_watched() {
    let dir = tempfile::tempdir().unwrap();
    let (home, project) = (dir.path().join("h"), dir.path().join("p"));
    std::fs::create_dir_all(&home).unwrap();
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(home.join(".claude.json"), ENTRY).unwrap();
    std::fs::write(project.join(".mcp.json"), ENTRY).unwrap();
    let watch = ClientWatch::of(vec![], vec![], Path::new("/run/lazaret")).unwrap();
    let mut scans = watch.subscribe();
    watch.add_home(&home);
    assert_eq!(count(&watch.current(), &home), 1);
    watch.add_project(&project);
    assert_eq!(count(&watch.current(), &project), 1);
    assert!(scans.has_changed().unwrap());
    scans.mark_unchanged();
    watch.add_project(&project);
    assert!(!scans.has_changed().unwrap(), "nothing new was said");
    std::fs::remove_file(project.join(".mcp.json")).unwrap();
    wait_for(&watch, |scan| count(scan, &project) == 0);
}

/// Waits for the next change, with a deadline.
fn next_change(changes: &mut broadcast::Receiver<Arc<ConfigChange>>) -> Arc<ConfigChange> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let found = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), changes.recv()).await });
    found.expect("no change was told").unwrap()
}

/// Whether this process may be told who writes.
fn names_writers() -> bool {
    let named = std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
        && sys::Group::open().is_ok();
    if !named {
        eprintln!("SKIPPED: writers are named only to root, with fanotify");
    }
    named
}

/// A process that lives until the other end of its standard input is closed, after it has run `script`.
fn shell(script: &str) -> std::process::Child {
    std::process::Command::new("sh")
        .args(["-c", &format!("{script}\nread wait || exit 0")])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_rewritten_entry_names_what_it_was_what_it_is_and_who_wrote_it() {
    if !names_writers() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, ENTRY).unwrap();
    let watch = watch(dir.path());
    let mut changes = watch.changes();
    let new = ENTRY.replace("mcp-server-time", "evil");
    let mut child = shell(&format!("printf '%s' '{new}' > '{}'", path.display()));
    let change = next_change(&mut changes);
    assert_eq!((change.client, &change.path), (super::super::clients::Client::ClaudeCode, &path));
    let entry = &change.entries[0];
    assert_eq!((entry.what, entry.name.as_str(), change.entries.len()), (What::Rewritten, "time", 1));
    assert_eq!(entry.to_string(), "time was rewritten: uvx mcp-server-time became uvx evil");
    let writer = &change.writers[0];
    assert_eq!(writer.pid, child.id(), "{writer}");
    assert!(writer.exe.is_some() && writer.uid == Some(0), "{writer}");
    assert_eq!(writer.parents[0].pid, std::process::id(), "{writer}");
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(watch.recent_changes().len(), 1);
}

#[test]
fn an_atomic_replacement_names_the_process_that_renamed() {
    if !names_writers() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".cursor/mcp.json");
    std::fs::create_dir(dir.path().join(".cursor")).unwrap();
    std::fs::write(&path, ENTRY).unwrap();
    let watch = watch(dir.path());
    let mut changes = watch.changes();
    // This process renames, and lives.
    std::fs::write(dir.path().join(".cursor/mcp.json.tmp"), "{}").unwrap();
    std::fs::rename(dir.path().join(".cursor/mcp.json.tmp"), &path).unwrap();
    let change = next_change(&mut changes);
    assert_eq!(change.entries[0].what, What::Removed);
    assert_eq!(change.writers[0].pid, std::process::id());
    drop(watch);
}

#[test]
fn what_is_seen_for_the_first_time_is_no_change_and_what_appears_later_is() {
    let dir = tempfile::tempdir().unwrap();
    let (home, other) = (dir.path().join("home"), dir.path().join("other"));
    std::fs::create_dir_all(&home).unwrap();
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join(".claude.json"), ENTRY).unwrap();
    let watch = watch(&home);
    let mut changes = watch.changes();
    watch.add_home(&other);
    std::fs::create_dir(home.join(".cursor")).unwrap();
    std::fs::write(home.join(".cursor/mcp.json"), ENTRY).unwrap();
    let change = next_change(&mut changes);
    assert_eq!((&change.path, change.entries[0].what), (&home.join(".cursor/mcp.json"), What::Added));
    std::fs::remove_file(other.join(".claude.json")).unwrap();
    let change = next_change(&mut changes);
    assert_eq!((&change.path, change.entries[0].what), (&other.join(".claude.json"), What::Removed));
}

#[test]
fn half_a_file_forgets_nothing_until_it_is_closed() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".codex/config.toml");
    std::fs::create_dir(dir.path().join(".codex")).unwrap();
    std::fs::write(&path, "[mcp_servers.a]\ncommand = \"a\"\n[mcp_servers.b]\ncommand = \"b\"\n").unwrap();
    let watch = watch(dir.path());
    let mut changes = watch.changes();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"[mcp_servers.c]\ncommand = \"c\"\n").unwrap();
    let scan = wait_for(&watch, |scan| count(scan, dir.path()) == 3);
    assert_eq!(scan.files.iter().find(|file| file.path == path).unwrap().error, None);
    file.write_all(b"[mcp_servers.a]\ncommand = \"a\"\n").unwrap();
    drop(file);
    wait_for(&watch, |scan| count(scan, dir.path()) == 2);
    let change = next_change(&mut changes);
    let told: Vec<_> = change.entries.iter().map(|entry| (entry.what, entry.name.as_str())).collect();
    assert_eq!(told, [(What::Removed, "b"), (What::Added, "c")]);
}

#[test]
fn a_file_that_is_never_closed_is_told_all_the_same() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, ENTRY).unwrap();
    let watch = watch(dir.path());
    let mut changes = watch.changes();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(ENTRY.replace("uvx", "evil").as_bytes()).unwrap();
    let change = next_change(&mut changes);
    assert_eq!(change.entries[0].what, What::Rewritten);
    drop(file);
}

#[test]
fn a_config_that_cannot_be_read_any_more_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, ENTRY).unwrap();
    let watch = watch(dir.path());
    let mut changes = watch.changes();
    std::fs::write(&path, "{\n  \"mcpServers\": {,").unwrap();
    let change = next_change(&mut changes);
    assert!(change.entries.is_empty() && change.error.as_ref().is_some_and(|e| e.contains("line 2, column 18")));
    assert_eq!(count(&watch.current(), dir.path()), 1);
}

#[test]
fn whoever_asked_has_the_scan_before_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let watch = watch(dir.path());
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    watch.on_scan({
        let seen = seen.clone();
        move |scan| seen.lock().unwrap().push(scan.generation)
    });
    std::fs::write(dir.path().join(".claude.json"), ENTRY).unwrap();
    let scan = wait_for(&watch, |scan| count(scan, dir.path()) == 1);
    assert!(seen.lock().unwrap().contains(&scan.generation));
}

/// From the end of a write to the scan that has it: what a client would have to beat.
#[test]
fn a_write_is_known_within_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".claude.json");
    std::fs::write(&path, "{}").unwrap();
    let watch = watch(dir.path());
    let mut took = Vec::new();
    for i in 0..50 {
        let (new, want) = if i % 2 == 0 { (ENTRY, 1) } else { ("{}", 0) };
        std::fs::write(&path, new).unwrap();
        let start = Instant::now();
        wait_for(&watch, |scan| count(scan, dir.path()) == want);
        took.push(start.elapsed());
    }
    took.sort();
    eprintln!("from a write to the scan: median {:?}, worst {:?}", took[25], took[49]);
}

/// As on a host that refuses fanotify.
fn by_inotify(homes: Vec<PathBuf>, projects: Vec<PathBuf>) -> ClientWatch {
    let source = Source::start_with(|_, _, _| Err(std::io::ErrorKind::PermissionDenied.into()));
    assert!(source.0.works() && source.2.len() == 1, "{:?}", source.2);
    ClientWatch::with(source, homes, projects, Path::new("/run/lazaret")).unwrap()
}

#[test]
fn inotify_alone_sees_what_appears_changes_and_goes_and_names_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let watch = by_inotify(vec![home.into()], vec![]);
    assert!(watch.current().warnings.iter().any(|warning| warning.contains("fanotify is refused")));
    let mut changes = watch.changes();
    let path = home.join(".claude.json");
    std::fs::write(&path, ENTRY).unwrap();
    wait_for(&watch, |scan| count(scan, home) == 1);
    assert!(next_change(&mut changes).writers.is_empty());
    std::fs::write(home.join("new"), ENTRY.replace("}}}", "},\"b\":{\"command\":\"b\"}}}")).unwrap();
    std::fs::rename(home.join("new"), &path).unwrap();
    wait_for(&watch, |scan| count(scan, home) == 2);
    std::fs::remove_file(&path).unwrap();
    wait_for(&watch, |scan| count(scan, home) == 0);
    let deep = home.join(".config/Claude");
    for _ in 0..2 {
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("claude_desktop_config.json"), ENTRY).unwrap();
        wait_for(&watch, |scan| count(scan, home) == 1);
        std::fs::remove_dir_all(home.join(".config")).unwrap();
        wait_for(&watch, |scan| count(scan, home) == 0);
    }
}

#[test]
fn of_ten_thousand_projects_as_many_are_watched_as_there_is_room_for_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let projects: Vec<PathBuf> = (0..10_000).map(|n| dir.path().join(n.to_string())).collect();
    for project in &projects {
        std::fs::create_dir(project).unwrap();
        std::fs::write(project.join(".mcp.json"), ENTRY).unwrap();
    }
    let last = &projects[MAX_PROJECTS - 1];
    let fanotify = |projects| ClientWatch::of(vec![], projects, Path::new("/run/lazaret")).unwrap();
    for start in [&fanotify as &dyn Fn(Vec<PathBuf>) -> ClientWatch, &|projects| by_inotify(vec![], projects)] {
        let watch = start(projects.clone());
        let scan = watch.current();
        assert_eq!(count(&scan, dir.path()), MAX_PROJECTS);
        assert!(scan.warnings.iter().any(|warning| warning.contains("projects are watched")), "{:?}", scan.warnings);
        std::fs::write(last.join(".mcp.json"), "{}").unwrap();
        wait_for(&watch, |scan| count(scan, dir.path()) == MAX_PROJECTS - 1);
        std::fs::write(last.join(".mcp.json"), ENTRY).unwrap();
        wait_for(&watch, |scan| count(scan, dir.path()) == MAX_PROJECTS);
    }
}
