//! Config entries as the kernel compares them with an argv.

use lazaret_common::hash;
use lazaret_common::settings::EntryKey;

use super::ConfigEntry;

/// Hash and length of basename(command), NUL, then each argument and a NUL: the end of the argv
/// of whoever starts it, under any directory.
pub(super) fn key(entry: &ConfigEntry) -> EntryKey {
    let name = entry.command.rsplit('/').next().unwrap_or_default();
    let mut joined = Vec::with_capacity(64);
    for word in std::iter::once(name).chain(entry.args.iter().map(String::as_str)) {
        joined.extend_from_slice(word.as_bytes());
        joined.push(0);
    }
    EntryKey { hash: hash::of(&joined), length: joined.len() as u32, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(command: &str, args: &[&str]) -> ConfigEntry {
        ConfigEntry { id: 1, command: command.into(), args: args.iter().map(|a| (*a).into()).collect() }
    }

    #[test]
    fn the_directory_of_the_command_does_not_count() {
        assert_eq!(key(&entry("/usr/bin/npx", &["-y", "x"])), key(&entry("npx", &["-y", "x"])));
        assert_ne!(key(&entry("npx", &["-y", "x"])), key(&entry("npx", &["-y x"])));
        assert_ne!(key(&entry("npx", &["a", ""])), key(&entry("npx", &["a"])));
    }
}
