use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use super::*;

/// The accepted end of a connection that this very process opened.
fn connected() -> (UnixStream, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let client = UnixStream::connect(dir.path().join("s")).unwrap();
    (listener.accept().unwrap().0, client)
}

fn me() -> Peer {
    Peer { uid: 0, gid: 0, pid: i32::try_from(std::process::id()).ok() }
}

#[test]
fn who_connected_is_held_fast_with_the_parents() {
    let (door, _client) = connected();
    let process = PeerProcess::of(door.as_fd(), me()).unwrap();
    assert_eq!(process.pid(), std::process::id());
    assert_eq!(process.examine(), Ok(()));
    let parent = std::os::unix::process::parent_id();
    assert_eq!(process.parents()[0].pid, parent);
    assert_eq!(process.check_up_to(process.parents()[0]), Ok(()));
    let unseen = PeerProcess::of(door.as_fd(), Peer { pid: None, ..me() });
    assert_eq!(unseen.unwrap_err(), Strange::Unseen(None));
}

/// A shell that runs `script`, and the first line that it prints.
fn shell(script: &str) -> (Child, String) {
    let mut child =
        Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

/// As if `pid` had connected.
fn of(pid: u32) -> PeerProcess {
    let stat = tree::stat(pid).unwrap();
    let parents = [tree::stat(stat.parent).unwrap().process].into();
    PeerProcess { pidfd: sys::pidfd_open(pid).unwrap(), uid: 0, connector: stat.process, parents }
}

#[test]
fn a_process_that_ended_is_gone() {
    let (mut child, _) = shell("echo up; read x");
    let process = of(child.id());
    assert_eq!(process.check(), Ok(()));
    child.kill().and_then(|()| child.wait()).unwrap();
    assert_eq!(process.check(), Err(Strange::Gone(child.id())));
}

#[test]
fn a_process_that_lost_its_parent_is_refused() {
    let (mut parent, grandchild) = shell("sleep 60 & echo $!; read x");
    let process = of(grandchild.parse().unwrap());
    assert_eq!(process.check_up_to(process.parents()[0]), Ok(()));
    parent.kill().and_then(|()| parent.wait()).unwrap();
    assert_eq!(process.check(), Err(Strange::Orphaned(parent.id())));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(grandchild.parse().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn every_read_names_its_writer_and_mixes_none() {
    let (door, mut client) = connected();
    name_writers(door.as_fd()).unwrap();
    client.write_all(b"mine").unwrap();
    // Another process writes into the connection that this one opened.
    let theirs = Command::new("/bin/echo")
        .args(["-n", "theirs"])
        .stdout(std::os::fd::OwnedFd::from(client.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let other = theirs.id();
    assert!({ theirs }.wait().unwrap().success());
    let mut buffer = [0; 64];
    assert_eq!(receive(door.as_fd(), &mut buffer).unwrap(), (4, std::process::id()));
    assert_eq!(receive(door.as_fd(), &mut buffer).unwrap(), (6, other));
    assert_eq!(&buffer[..6], b"theirs");
    let empty = receive(door.as_fd(), &mut buffer).unwrap_err();
    assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);
}
