//! The smallest program there is: its first instructions make a file, and then it ends.
//!
//! There is no loader, no libc and no interpreter before them, so that the file says whether the new
//! image ever ran at all.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// Writes an executable to `program` that makes the file `marker`.
pub fn write_marker_program(program: &Path, marker: &Path) -> PathBuf {
    std::fs::write(program, image(marker)).expect("the program can be written");
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    program.to_path_buf()
}

/// An x86-64 ELF: header, one loadable segment, code, the path of the marker.
pub fn image(marker: &Path) -> Vec<u8> {
    // open(path, O_CREAT | O_WRONLY, 0644); exit(0)
    let mut code: Vec<u8> = Vec::new();
    code.extend([0xb8, 2, 0, 0, 0]); // mov eax, SYS_open
    code.extend([0xbf, 0, 0, 0, 0]); // mov edi, path (patched below)
    code.extend([0xbe, 0x41, 0, 0, 0]); // mov esi, O_CREAT | O_WRONLY
    code.extend([0xba, 0xa4, 1, 0, 0]); // mov edx, 0644
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xb8, 60, 0, 0, 0]); // mov eax, SYS_exit
    code.extend([0x31, 0xff, 0x0f, 0x05]); // xor edi, edi; syscall
    let path_at = u32::try_from(BASE + HEADERS + code.len() as u64).expect("the image is small");
    code[6..10].copy_from_slice(&path_at.to_le_bytes());
    code.extend(marker.as_os_str().as_encoded_bytes());
    code.push(0);

    let size = HEADERS + code.len() as u64;
    let mut elf: Vec<u8> = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    elf.extend((BASE + HEADERS).to_le_bytes()); // entry
    elf.extend(64_u64.to_le_bytes()); // program headers
    elf.extend(0_u64.to_le_bytes()); // no sections
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    for field in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_makes_its_marker() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let marker = dir.path().join("ran");
        let program = write_marker_program(&dir.path().join("program"), &marker);
        let status = std::process::Command::new(program).status().expect("the kernel takes the image");
        assert!(status.success());
        assert!(marker.exists());
    }
}
