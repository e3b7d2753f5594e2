//! Config entries as the kernel compares them with an argv.
//!
//! An entry convicts every start of its argv, by a client or by hand. So one that says no more than "a shell"
//! or "list this directory" is left to the handshake: nobody's terminal ends because a config names `bash`.

use lazaret_common::event::ARGV;
use lazaret_common::hash;
use lazaret_common::settings::{ANYBODY, EntryKey, LONGEST_ENTRY};

use super::ConfigEntry;

/// Programs that are what their arguments make of them: without any that names something, anything.
const GENERAL: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "fish",
    "ksh",
    "mksh",
    "csh",
    "tcsh",
    "pwsh",
    "busybox",
    "toybox",
    "python",
    "ipython",
    "pypy",
    "node",
    "nodejs",
    "deno",
    "bun",
    "ruby",
    "irb",
    "perl",
    "php",
    "lua",
    "luajit",
    "tclsh",
    "java",
    "jshell",
    "ghci",
    "r",
    "julia",
    "elixir",
    "iex",
    "erl",
    "npx",
    "npm",
    "pnpm",
    "yarn",
    "bunx",
    "uv",
    "uvx",
    "pipx",
    "pip",
    "docker",
    "podman",
    "nerdctl",
    "kubectl",
    "ssh",
    "sudo",
    "su",
    "doas",
    "env",
    "nice",
    "nohup",
    "setsid",
    "stdbuf",
    "timeout",
    "xargs",
    "script",
    "tmux",
    "screen",
    "make",
    "cargo",
    "go",
    "vi",
    "vim",
    "nvim",
    "nano",
    "emacs",
    "less",
    "more",
    "man",
    "socat",
    "nc",
    "ncat",
    "psql",
    "mysql",
    "sqlite",
    "redis-cli",
    "code",
    "claude",
];

/// Tools that do one thing and end: no server, whatever their arguments are.
const TOOLS: &[&str] = &[
    "ls",
    "cat",
    "cp",
    "mv",
    "rm",
    "ln",
    "mkdir",
    "rmdir",
    "touch",
    "chmod",
    "chown",
    "stat",
    "du",
    "df",
    "pwd",
    "echo",
    "printf",
    "true",
    "false",
    "test",
    "[",
    "sleep",
    "date",
    "id",
    "whoami",
    "hostname",
    "uname",
    "uptime",
    "who",
    "w",
    "ps",
    "top",
    "htop",
    "kill",
    "killall",
    "pgrep",
    "pkill",
    "head",
    "tail",
    "sort",
    "uniq",
    "wc",
    "cut",
    "tr",
    "tee",
    "grep",
    "egrep",
    "fgrep",
    "rg",
    "sed",
    "find",
    "which",
    "whereis",
    "file",
    "diff",
    "cmp",
    "basename",
    "dirname",
    "realpath",
    "readlink",
    "seq",
    "yes",
    "clear",
    "reset",
    "stty",
    "tput",
    "tar",
    "gzip",
    "gunzip",
    "zip",
    "unzip",
    "xz",
    "zstd",
    "md5sum",
    "sha256sum",
    "base64",
    "od",
    "xxd",
    "git",
    "gcc",
    "cc",
    "clang",
    "ld",
    "rustc",
    "jq",
    "mount",
    "umount",
    "ip",
    "ping",
    "dig",
    "systemctl",
    "journalctl",
    "apt",
    "apt-get",
    "dpkg",
    "rpm",
    "dnf",
    "login",
];

/// Why an entry is not told to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeftOut {
    /// Its command line is also that of harmless starts.
    SaysNothing,
    TooLong,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SaysNothing => {
                "that command line is also one of harmless starts, so that only its handshake convicts it"
            }
            Self::TooLong => "its arguments are too long to be compared, so that only its handshake convicts it",
        })
    }
}

/// Hash and length of basename(command), NUL, then each argument and a NUL: the end of the argv
/// of whoever starts it, under any directory.
pub(super) fn key(entry: &ConfigEntry) -> Result<EntryKey, LeftOut> {
    let name = entry.command.rsplit('/').next().unwrap_or_default();
    if says_nothing(name, &entry.args) {
        return Err(LeftOut::SaysNothing);
    }
    let mut joined = Vec::with_capacity(64);
    for word in std::iter::once(name).chain(entry.args.iter().map(String::as_str)) {
        joined.extend_from_slice(word.as_bytes());
        joined.push(0);
    }
    if joined.len() > LONGEST_ENTRY as usize - ARGV {
        return Err(LeftOut::TooLong);
    }
    Ok(EntryKey { hash: hash::of(&joined), length: joined.len() as u32, uid: entry.uid.unwrap_or(ANYBODY) })
}

/// Whether the command line is what people and programs run all day.
fn says_nothing(name: &str, args: &[String]) -> bool {
    // `python3.12` is `python`.
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').to_ascii_lowercase();
    TOOLS.contains(&name) || GENERAL.contains(&plain.as_str()) && args.iter().all(|arg| is_bare_flag(arg))
}

/// `-l`, `--login`: it names nothing.
fn is_bare_flag(arg: &str) -> bool {
    arg.is_empty() || arg.starts_with('-') && arg.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(command: &str, args: &[&str]) -> ConfigEntry {
        ConfigEntry { id: 1, command: command.into(), args: args.iter().map(|a| (*a).into()).collect(), uid: None }
    }

    #[test]
    fn the_directory_of_the_command_does_not_count() {
        assert_eq!(key(&entry("/usr/bin/npx", &["-y", "x"])), key(&entry("npx", &["-y", "x"])));
        assert_ne!(key(&entry("npx", &["-y", "x"])), key(&entry("npx", &["-y x"])));
        assert_ne!(key(&entry("npx", &["a", ""])), key(&entry("npx", &["a"])));
    }

    #[test]
    fn one_users_entry_is_not_anothers() {
        let of = |uid| key(&ConfigEntry { uid, ..entry("npx", &["-y", "x"]) }).unwrap();
        assert_ne!(of(Some(1000)), of(Some(1001)));
        assert_eq!(of(None).uid, ANYBODY);
    }

    #[test]
    fn what_everybody_runs_all_day_convicts_nobody() {
        for (command, args) in [
            ("bash", &[][..]),
            ("/bin/sh", &["-l"]),
            ("python3.12", &["-i"]),
            ("node", &["--interactive"]),
            ("ls", &["-la", "/tmp"]),
            ("git", &["status"]),
        ] {
            assert_eq!(key(&entry(command, args)), Err(LeftOut::SaysNothing), "{command} {args:?}");
        }
        for (command, args) in [
            ("/opt/thing", &[][..]),
            ("mcp-server-git", &[]),
            ("bash", &["-c", "exec thing"]),
            ("node", &["server.js"]),
            ("node", &["--eval=require('thing')"]),
            ("python3", &["-m", "thing"]),
        ] {
            assert!(key(&entry(command, args)).is_ok(), "{command} {args:?}");
        }
    }

    #[test]
    fn a_long_entry_is_told_and_one_that_is_too_long_for_the_kernel_is_not() {
        let script = |length| entry("node", &["-e", &"x".repeat(length)]).args;
        let long = |length| key(&ConfigEntry { args: script(length), ..entry("node", &[]) });
        assert_eq!(long(100_000).unwrap().length, 100_009);
        assert_eq!(long(200_000), Err(LeftOut::TooLong));
    }
}
