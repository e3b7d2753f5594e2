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

/// As [`image`], for the 32-bit side of the processor.
pub fn image_32(marker: &Path) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let mut code: Vec<u8> = Vec::new();
    code.extend([0xb8, 5, 0, 0, 0]); // mov eax, SYS_open
    code.extend([0xbb, 0, 0, 0, 0]); // mov ebx, path (patched below)
    code.extend([0xb9, 0x41, 0, 0, 0]); // mov ecx, O_CREAT | O_WRONLY
    code.extend([0xba, 0xa4, 1, 0, 0]); // mov edx, 0644
    code.extend([0xcd, 0x80]); // int 0x80
    code.extend([0xb8, 1, 0, 0, 0]); // mov eax, SYS_exit
    code.extend([0x31, 0xdb, 0xcd, 0x80]); // xor ebx, ebx; int 0x80
    let path_at = BASE + HEADERS + code.len() as u32;
    code[6..10].copy_from_slice(&path_at.to_le_bytes());
    code.extend(marker.as_os_str().as_encoded_bytes());
    code.push(0);

    let size = HEADERS + code.len() as u32;
    let mut elf: Vec<u8> = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 3, 0, 1, 0, 0, 0]); // executable, i386, version 1
    for field in [BASE + HEADERS, 52, 0, 0] {
        elf.extend(field.to_le_bytes()); // entry, program headers, no sections, no flags
    }
    elf.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    for field in [1, 0, BASE, BASE, size, size, 5, 0x1000] {
        elf.extend(field.to_le_bytes()); // PT_LOAD, readable and executable
    }
    elf.extend(code);
    elf
}

/// A shared library that acts when it is loaded: it reads from stdin, makes the file if there was something to
/// read, and ends the process.
pub fn library(marker: &Path) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const ENTRIES: u64 = 6;
    let mut code: Vec<u8> = Vec::new();
    code.extend([0x31, 0xc0, 0x31, 0xff]); // xor eax, eax (SYS_read); xor edi, edi
    code.extend([0x48, 0x81, 0xec, 0, 0x10, 0, 0, 0x48, 0x89, 0xe6]); // sub rsp, 4096; mov rsi, rsp
    code.extend([0xba, 0, 0x10, 0, 0, 0x0f, 0x05]); // mov edx, 4096; syscall
    code.extend([0x48, 0x85, 0xc0, 0x7e, 0]); // test rax, rax; jle end (patched below)
    let jump = code.len();
    code.extend([0xb8, 2, 0, 0, 0]); // mov eax, SYS_open
    code.extend([0x48, 0x8d, 0x3d, 0, 0, 0, 0]); // lea rdi, [rip + path] (patched below)
    let lea = code.len();
    code.extend([0xbe, 0x41, 0, 0, 0, 0xba, 0xa4, 1, 0, 0, 0x0f, 0x05]); // O_CREAT | O_WRONLY, 0644; syscall
    code[jump - 1] = (code.len() - jump) as u8;
    code.extend([0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]); // mov eax, SYS_exit_group; xor edi, edi; syscall
    let path = code.len();
    code[lea - 4..lea].copy_from_slice(&((path - lea) as u32).to_le_bytes());
    code.extend(marker.as_os_str().as_encoded_bytes());
    code.push(0);
    code.resize(code.len().next_multiple_of(8), 0);

    // The dynamic section, and behind it an empty symbol table and an empty string table.
    let dynamic_at = HEADERS + code.len() as u64;
    let symbols_at = dynamic_at + 16 * ENTRIES;
    let strings_at = symbols_at + 24;
    let size = strings_at + 8;
    // DT_INIT, DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_SYMENT, DT_NULL
    let dynamic: [(u64, u64); ENTRIES as usize] =
        [(12, HEADERS), (5, strings_at), (10, 1), (6, symbols_at), (11, 24), (0, 0)];

    let mut elf: Vec<u8> = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([3, 0, 62, 0, 1, 0, 0, 0]); // shared object, x86-64, version 1
    elf.extend(0_u64.to_le_bytes());
    elf.extend(64_u64.to_le_bytes()); // program headers
    elf.extend(0_u64.to_le_bytes()); // no sections
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]); // PT_LOAD, all rights: the loader writes into the dynamic section
    for field in [0, 0, 0, size, size, 0x1000] {
        elf.extend(u64::to_le_bytes(field));
    }
    elf.extend([2, 0, 0, 0, 6, 0, 0, 0]); // PT_DYNAMIC
    for field in [dynamic_at, dynamic_at, dynamic_at, 16 * ENTRIES, 16 * ENTRIES, 8] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    for (tag, value) in dynamic {
        elf.extend(tag.to_le_bytes());
        elf.extend(value.to_le_bytes());
    }
    elf.resize(size as usize, 0);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_acts_when_it_is_loaded() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (marker, path) = (dir.path().join("read"), dir.path().join("strange.so"));
        std::fs::write(&path, library(&marker)).expect("the library can be written");
        for variable in ["LD_PRELOAD", "LD_AUDIT"] {
            let _ = std::fs::remove_file(&marker); // of the one before
            let status = std::process::Command::new("cat")
                .env(variable, &path)
                .stdin(std::fs::File::open("/dev/zero").expect("it is there"))
                .status()
                .expect("cat starts");
            assert!(marker.exists(), "{variable}: {status}");
        }
    }

    #[test]
    fn the_32_bit_program_makes_its_marker() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (marker, path) = (dir.path().join("ran"), dir.path().join("program"));
        std::fs::write(&path, image_32(&marker)).expect("the program can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it can be made executable");
        // A kernel without the 32-bit side refuses the image.
        if std::process::Command::new(&path).status().is_ok() {
            assert!(marker.exists());
        }
    }

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
