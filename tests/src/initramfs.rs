//! Writes the initramfs of a test guest: a cpio archive in the kernel's `newc` format
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree).
//!
//! Invariant: a program goes in together with every shared library that `ldd` names for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

#[derive(Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    /// Paths that are in the archive, without the leading slash.
    have: BTreeSet<String>,
}

impl Initramfs {
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, content);
    }

    pub fn script(&mut self, path: &str, content: &str) {
        self.entry(path, PROGRAM, content.as_bytes());
    }

    /// A program without the libraries that it needs.
    pub fn executable(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    pub fn link(&mut self, path: &str, to: &str) {
        self.entry(path, LINK, to.as_bytes());
    }

    /// Adds the host's `program` as `path`, and its shared libraries where it looks for them.
    pub fn program(&mut self, path: &str, program: &Path) -> Result<(), String> {
        let content = read(program)?;
        self.entry(path, PROGRAM, &content);
        for library in libraries(program)? {
            let content = read(&library)?;
            self.entry(&library.to_string_lossy(), PROGRAM, &content);
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, 0, 1);
        self.archive
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.have.contains(parent)
        {
            self.directory(parent);
        }
        if self.have.insert(path.to_owned()) {
            self.header(path, mode, content.len(), self.have.len());
            self.archive.extend_from_slice(content);
            self.pad();
        }
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, inode: usize) {
        let name_size = path.len() + 1;
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.archive.extend_from_slice(header.as_bytes());
        self.archive.extend_from_slice(path.as_bytes());
        self.archive.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("cannot put {} into the initramfs: {e}", path.display()))
}

/// The absolute paths in what `ldd` prints; none for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("ldd").arg(program).output().map_err(|e| format!("cannot run ldd: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        return Err(format!("{} lacks a library: {}", program.display(), line.trim()));
    }
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_lists_what_was_put_in() {
        let mut initramfs = Initramfs::default();
        initramfs.script("/init", "#!/bin/sh\n");
        initramfs.file("/etc/deep/passwd", b"root");
        initramfs.link("/bin/sh", "busybox");
        let archive = initramfs.finish();
        let names: Vec<_> = ["init", "etc", "etc/deep", "etc/deep/passwd", "bin", "bin/sh", "TRAILER!!!"]
            .iter()
            .map(|name| archive.windows(name.len() + 1).position(|w| w == format!("{name}\0").as_bytes()).unwrap())
            .collect();
        assert!(names.is_sorted(), "a directory stands before what is in it: {names:?}");
        assert_eq!(archive.len() % 4, 0);
    }
}
