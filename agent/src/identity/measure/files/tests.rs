use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use super::*;

fn files(digests: &Digests, uid: u32) -> Files<'_> {
    Files::of(std::process::id(), uid, digests).unwrap()
}

fn own_uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

fn refused(found: Found) -> String {
    match found {
        Found::Unmeasured(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_has_its_digest_and_another_after_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("CLAUDE.md");
    let digests = Digests::default();
    let files = files(&digests, own_uid());
    assert_eq!(files.measure(&path, None), Found::Nothing);
    fs::write(&path, "be good").unwrap();
    let Found::Measured(first, _) = files.measure(&path, None) else { panic!("not measured") };
    assert_eq!(first, format!("sha256:{}", hex::encode(Sha256::digest(b"be good"))));
    // The same size, at once: within a tick of the file system's clock.
    fs::write(&path, "be evil").unwrap();
    let Found::Measured(second, _) = files.measure(&path, None) else { panic!("not measured") };
    assert_ne!(first, second);
}

#[test]
fn what_is_no_regular_file_is_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let digests = Digests::default();
    let files = files(&digests, own_uid());
    for path in [fifo.as_path(), Path::new("/dev/zero")] {
        assert!(refused(files.measure(path, None)).contains("not a regular file"), "{}", path.display());
    }
    symlink(&fifo, dir.path().join("link")).unwrap();
    assert!(refused(files.measure(&dir.path().join("link"), None)).contains("not a regular file"));
    assert_eq!(files.measure(dir.path(), None), Found::Nothing);
}

#[test]
fn links_into_other_users_files_are_not_followed() {
    if own_uid() != 0 {
        eprintln!("SKIP: making files of other users needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, uid, mode) in
        [("mine", 1001, 0o600), ("theirs", 1002, 0o644), ("shadow", 0, 0o600), ("public", 0, 0o644)]
    {
        fs::write(path(name), "x").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        chown(path(name), Some(uid), None).unwrap();
        symlink(path(name), path(&format!("to-{name}"))).unwrap();
    }
    let digests = Digests::default();
    let files = files(&digests, 1001);
    for name in ["mine", "to-mine", "public", "to-public"] {
        assert!(matches!(files.measure(&path(name), None), Found::Measured(..)), "{name}");
    }
    for (name, uid) in [("to-theirs", 1002), ("theirs", 1002), ("to-shadow", 0), ("shadow", 0)] {
        assert_eq!(refused(files.measure(&path(name), None)), format!("unmeasured: a file of uid {uid}"), "{name}");
    }
    symlink("/proc/self/exe", path("magic")).unwrap();
    assert!(matches!(files.measure(&path("magic"), None), Found::Unmeasured(_)));
    symlink(path("loop"), path("loop")).unwrap();
    assert!(refused(files.measure(&path("loop"), None)).contains("links"));
}

#[test]
fn of_a_file_that_is_too_large_the_beginning_and_the_size_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge");
    fs::File::create(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
    let digests = Digests::default();
    let files = files(&digests, own_uid());
    let Found::Measured(one, _) = files.measure(&path, None) else { panic!("not measured") };
    assert!(one.starts_with(&format!("sha256-of-first-{MAX_FILE}-bytes-and-size:")), "{one}");
    fs::File::create(&path).unwrap().set_len(MAX_FILE + 2).unwrap();
    let Found::Measured(two, _) = files.measure(&path, None) else { panic!("not measured") };
    assert_ne!(one, two);
}

#[test]
fn a_directory_is_listed_up_to_a_bound_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b", "a", "c"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let digests = Digests::default();
    let files = files(&digests, own_uid());
    let Listing { names, whole, .. } = files.list(dir.path(), 3).unwrap();
    assert_eq!((names.len(), names[0].0.to_str(), whole), (3, Some("a"), true));
    assert!(!files.list(dir.path(), 2).unwrap().whole);
    assert!(files.list(&dir.path().join("a"), 2).is_none());
}
