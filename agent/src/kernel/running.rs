//! Servers that were already running when the kernel programs came on.
//!
//! Nobody saw their exec, so that their argv is read from `/proc` and judged by the kernel's own rules (the
//! program `judge`). A process can have written over its argv since: what that hides is caught at the next
//! message that says of itself that it is MCP, which every request of the 2026 protocol does. Whoever has a
//! label that clears it, or was convicted before, is left as it is.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lazaret_common::event::{ANCESTORS, ARGV};
use lazaret_common::label::{CLEARED, CLIENT, FLAGGED, HELD, IN_SCOPE};
use lazaret_common::settings::{ANYBODY, IS_CLIENT, MODE_ENFORCE, MODE_HOLD, MODE_OBSERVE, Question};

use super::hold::Flagged;
use super::tree::{self, Process, Stat};
use super::{Action, Ancestor, EventKind, Guard, KernelError, KernelEvent, event, maps, scope, sys};

/// What the kernel's rules say of an argv.
struct Judged {
    /// Bits.
    evidence: u8,
    is_client: bool,
    entry: Option<u64>,
}

impl Guard {
    /// Judges every process that runs, and treats what is convicted as the mode says. The events are for the
    /// records; the verdicts are done.
    pub fn judge_running(&self) -> Vec<KernelEvent> {
        let mut events = Vec::new();
        for stat in tree::all() {
            match self.judge_one(&stat) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => {}
                Err(e) => tracing::error!("the running process {} was not judged: {e}", stat.process.pid),
            }
        }
        events
    }

    fn judge_one(&self, stat: &Stat) -> Result<Option<KernelEvent>, KernelError> {
        let process = stat.process;
        let flags = self.label_of(process).map_or(0, |label| label.flags);
        if process.pid == std::process::id() || flags & (CLEARED | FLAGGED) != 0 {
            return Ok(None);
        }
        if flags & IN_SCOPE == 0 && !scope::contains(self.scope(), process.pid) {
            return Ok(None);
        }
        let Some(argv) = read_argv(process.pid) else { return Ok(None) };
        let judged = self.ask(process.pid, &argv)?;
        if judged.evidence == 0 && (!judged.is_client || flags & CLIENT != 0) {
            return Ok(None);
        }
        let Some(mut event) = describe(process) else { return Ok(None) };
        event.config_entry = judged.entry;
        event.evidence = event::evidence(judged.evidence);
        if judged.evidence == 0 {
            event.kind = EventKind::Client;
            for process in self.tree(&[process], &HashSet::new()) {
                self.relabel(process, |label| label.flags |= CLIENT)?;
            }
            return Ok(Some(event));
        }
        event.shadow = (sys::boot_clock() as u64) << 8 | 0xff;
        event.action = self.treat(process, event.shadow, judged.evidence)?;
        Ok(Some(event))
    }

    /// Flags the process and what is below it; stops or ends them as the mode says.
    fn treat(&self, process: Process, shadow: u64, evidence: u8) -> Result<Action, KernelError> {
        let mode = (0..4).filter(|bit| evidence & 1 << bit != 0).map(|bit| self.modes()[bit]).max();
        let flag = |also: u32| {
            move |process| {
                self.relabel(process, |label| {
                    label.flags |= FLAGGED | also;
                    label.shadow = shadow;
                    label.told |= u32::from(evidence);
                })
                .map(|_| ())
            }
        };
        match mode.unwrap_or(MODE_OBSERVE) {
            MODE_ENFORCE => self.kill(&[process], &HashSet::new()).map(|_| Action::Killed),
            MODE_HOLD => self.stop_all(&[process], &HashSet::new(), flag(HELD)).map(|_| Action::Held),
            _ => {
                self.tree(&[process], &HashSet::new()).into_iter().try_for_each(flag(0))?;
                Ok(Action::Observed)
            }
        }
    }

    /// Has the kernel's rules judge an argv.
    fn ask(&self, pid: u32, argv: &[u8]) -> Result<Judged, KernelError> {
        let mut active = self.active();
        let Some(loaded) = active.loaded.as_mut() else {
            return Ok(Judged { evidence: 0, is_client: false, entry: None });
        };
        let length = argv.len().min(ARGV);
        let mut question = Question {
            argv: [0; ARGV],
            length: length as u32,
            total: argv.len() as u32,
            script: script(pid, argv),
            uid: scope::real_uid(pid).unwrap_or(ANYBODY),
            reserved: 0,
            answer: 0,
            entry: 0,
        };
        question.argv[..length].copy_from_slice(&argv[..length]);
        maps::set_at::<{ size_of::<Question>() }>(&mut loaded.ebpf, "QUESTION", 0, &question)?;
        loaded.run_judge()?;
        let answer: Question = maps::get_at::<{ size_of::<Question>() }, _>(&loaded.ebpf, "QUESTION", 0)?;
        Ok(Judged {
            evidence: answer.answer as u8,
            is_client: answer.answer & IS_CLIENT != 0,
            entry: (answer.entry != 0).then_some(answer.entry),
        })
    }

    /// What an event would have said of a process that the kernel has convicted, for a record that was lost.
    pub(super) fn describe_flagged(&self, flagged: &Flagged) -> Option<KernelEvent> {
        let mut event = describe(flagged.process)?;
        event.evidence = event::evidence(flagged.told as u8);
        event.action = if flagged.held { Action::Held } else { Action::Observed };
        event.shadow = flagged.shadow;
        event.was_running = false;
        let argv = read_argv(flagged.process.pid)?;
        event.config_entry = self.ask(flagged.process.pid, &argv).ok()?.entry;
        Some(event)
    }
}

/// NUL-terminated words, one byte more than is judged if there are more; `None` for the kernel's own threads.
fn read_argv(pid: u32) -> Option<Vec<u8>> {
    let mut argv = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(ARGV as u64 + 1).read_to_end(&mut argv).ok()?;
    (!argv.is_empty()).then_some(argv)
}

/// Words of the interpreter, its options included, that the kernel puts before a script.
const INTERPRETER: usize = 6;
/// Longest `#!` line of the kernel (`BINPRM_BUF_SIZE`).
const LONGEST_LINE: u64 = 256;

/// The number of the word that is the script, if the process runs one by its `#!` line; 0 if not. A file that
/// is only named to a program (`less run.sh`) is none.
fn script(pid: u32, argv: &[u8]) -> u32 {
    let mut words = argv.split(|byte| *byte == 0).enumerate();
    let Some((_, program)) = words.next() else { return 0 };
    let found = words.take(INTERPRETER).find(|(_, word)| interpreter(pid, word).is_some_and(|name| name == program));
    found.map_or(0, |(at, _)| at as u32)
}

/// What the `#!` line of the file runs it with: what becomes the first word of the argv.
fn interpreter(pid: u32, word: &[u8]) -> Option<Vec<u8>> {
    let named = Path::new(std::ffi::OsStr::from_bytes(word));
    let path = match named.strip_prefix("/") {
        Ok(rest) => PathBuf::from(format!("/proc/{pid}/root")).join(rest),
        Err(_) => PathBuf::from(format!("/proc/{pid}/cwd")).join(named),
    };
    fs::metadata(&path).ok().filter(|meta| meta.is_file())?;
    // Whatever stands at the path by now, opening it must not wait for a writer.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path).ok()?;
    let mut line = Vec::new();
    file.take(LONGEST_LINE).read_to_end(&mut line).ok()?;
    interpreter_of(&line)
}

fn interpreter_of(start: &[u8]) -> Option<Vec<u8>> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let program = words.next()?;
    if program.rsplit(|byte| *byte == b'/').next() != Some(b"env") {
        return Some(program.to_vec());
    }
    // `env -S node --flag`, `env NAME=value node`: env starts the program itself, under its bare name.
    words.find(|word| word[0] != b'-' && !word.contains(&b'=')).map(<[u8]>::to_vec)
}

/// The process as an event shows it. `None`: it has ended.
fn describe(process: Process) -> Option<KernelEvent> {
    let pid = process.pid;
    let argv = read_argv(pid)?;
    let exe = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let id =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let event = KernelEvent {
        kind: EventKind::Spawn,
        evidence: Vec::new(),
        action: Action::Observed,
        pid,
        uid: id("Uid:")?,
        gid: id("Gid:")?,
        comm: comm(pid),
        argv: event::words(&argv[..argv.len().min(ARGV)]),
        argv_truncated: argv.len() > ARGV,
        exe: link("exe"),
        exe_dev: exe.dev(),
        exe_inode: exe.ino(),
        cwd: link("cwd"),
        cgroup_id: scope::cgroup_of(pid).and_then(|dir| fs::metadata(dir).ok()).map_or(0, |meta| meta.ino()),
        ancestors: ancestors(pid),
        config_entry: None,
        shadow: 0,
        address: None,
        at: Timestamp::now(),
        was_running: true,
    };
    // What was read was this process's, if it still has the pid.
    (tree::stat(pid)?.process == process).then_some(event)
}

fn comm(pid: u32) -> String {
    fs::read(format!("/proc/{pid}/comm")).map_or_else(
        |_| String::new(),
        |name| String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned(),
    )
}

fn ancestors(pid: u32) -> Vec<Ancestor> {
    let parents = std::iter::successors(tree::stat(pid), |stat| tree::stat(stat.parent));
    parents.skip(1).take(ANCESTORS).map(|stat| stat.process.pid).map(|pid| Ancestor { pid, comm: comm(pid) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_as_it_was_started() {
        let own = tree::stat(std::process::id()).unwrap().process;
        let event = describe(own).unwrap();
        assert_eq!(event.exe, std::env::current_exe().unwrap());
        assert_eq!(event.argv, std::env::args().collect::<Vec<_>>());
        assert!(!event.ancestors.is_empty());
        assert!(describe(Process { started: own.started + 1, ..own }).is_none(), "another process");
    }

    #[test]
    fn a_file_is_a_script_where_its_interpreter_runs_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            fs::write(dir.path().join(name), content).unwrap();
            dir.path().join(name).as_os_str().as_bytes().to_vec()
        };
        let (npx, run) = (file("npx", "#!/usr/bin/env -S node\n"), file("run", "#!/bin/sh -e\n:"));
        let plain = file("server.py", "import mcp\n");
        let at = |words: &[&[u8]]| script(std::process::id(), &[words.join(&0), vec![0]].concat());
        assert_eq!(at(&[b"node", b"--flag", &npx, b"-y"]), 2);
        assert_eq!(at(&[b"/bin/sh", b"-e", &run]), 2);
        assert_eq!(at(&[b"less", &run]), 0, "a file that is only read");
        assert_eq!(at(&[b"python3", &plain]), 0);
        assert_eq!(at(&[b"node", dir.path().as_os_str().as_bytes(), b"", b"-"]), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_first_line_is_read(line in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = interpreter_of(&line);
            let _ = interpreter_of(&[b"#!".to_vec(), line].concat());
        }
    }
}
