//! Kernel images for the QEMU tests: stock Debian kernels, downloaded and unpacked, never installed.
//!
//! Invariant: `target/qemu/<version>/vmlinuz` is complete or absent, its modules were there before it, and no second
//! download happens while both are there. The bed itself (initramfs, boot, results) is `lazaret_tests::qemu`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The kernel lines that the tests boot, and what a package of that line is named around its release.
const LINES: [(&str, &str, &str); 2] =
    [("6.1", "linux-image-6.1.0-", "-amd64"), ("6.12", "linux-image-6.12.", "+deb12-amd64")];

/// What a guest needs to see this machine's files, in the order of loading, and last what [`LAST_MODULE`] is.
const MODULES: [&str; 7] = [
    "fs/fscache/fscache",
    "fs/netfs/netfs",
    "net/9p/9pnet",
    "fs/9p/9p",
    "net/9p/9pnet_virtio",
    "fs/overlayfs/overlay",
    "fs/binfmt_misc",
];

/// Every kernel has it apart: where it is, all are. For interpreters that are registered with the kernel.
const LAST_MODULE: &str = "modules/6-binfmt_misc.ko";

/// What a guest needs to see a disk with a file system, in the order of loading.
const FOR_A_DISK: [&str; 6] =
    ["lib/crc16", "crypto/crc32c_generic", "fs/mbcache", "fs/jbd2/jbd2", "fs/ext4/ext4", "drivers/block/virtio_blk"];

/// The last of them.
const LAST_FOR_A_DISK: &str = "disk/5-virtio_blk.ko";

/// What a distribution's user space loads for containers, files or directories; kept as they are, for `modprobe`.
const LOADABLE: [&str; 13] = [
    "arch/x86/crypto",
    "crypto",
    "drivers/net/tap.ko.xz",
    "drivers/net/tun.ko.xz",
    "drivers/net/veth.ko.xz",
    "fs/autofs",
    "fs/overlayfs",
    "lib",
    "net/802",
    "net/bridge",
    "net/ipv4",
    "net/llc",
    "net/netfilter",
];

/// Where [`LOADABLE`] is, as `/lib/modules` has it.
pub const LOADABLE_DIR: &str = "loadable";

pub struct Kernel {
    /// `6.1` or `6.12`.
    pub version: &'static str,
    pub vmlinuz: PathBuf,
}

/// The kernels of the test matrix below `root`/target/qemu; downloads those that are missing.
pub fn kernels(root: &Path) -> Result<Vec<Kernel>> {
    LINES
        .iter()
        .map(|(version, prefix, suffix)| {
            let vmlinuz = root.join("target/qemu").join(version).join("vmlinuz");
            let beside = |name: &str| vmlinuz.with_file_name(name).exists();
            if !vmlinuz.exists() || !beside(LAST_MODULE) || !beside(LAST_FOR_A_DISK) {
                download(&vmlinuz, prefix, suffix).with_context(|| {
                    format!("cannot get a Debian {version} kernel for the QEMU tests; kernel tests for it are skipped")
                })?;
            }
            Ok(Kernel { version, vmlinuz })
        })
        .collect()
}

/// Boots one kernel of the matrix, or takes the host's, and runs the guest's scenarios whose name contains one of
/// `scenarios` (all, if none), with everything on stderr and stdout: the way to work on one scenario.
pub fn boot(root: &Path, version: &str, bpf_listed: bool, scenarios: &[String]) -> Result<()> {
    let mut words = vec![version.to_owned()];
    if version != "host" {
        ensure!(
            kernels(root)?.iter().any(|kernel| kernel.version == version),
            "there is no kernel {version} in the test matrix; name 6.1, 6.12 or host"
        );
        words.push(if bpf_listed { "lsm" } else { "no-lsm" }.into());
    }
    words.extend_from_slice(scenarios);
    let status = tests_program(root, "qemu-bed").args(words).status().context("cannot run the QEMU bed with cargo")?;
    ensure!(status.success(), "the run on {version} reports failures (above), or did not come to its end");
    Ok(())
}

/// Writes the page of evasions anew.
pub fn evasions(root: &Path) -> Result<()> {
    let status = tests_program(root, "evasions").status().context("cannot run the renderer with cargo")?;
    ensure!(status.success(), "docs/EVASIONS.md was not written; the reason stands above");
    Ok(())
}

/// A program of the tests, run by cargo.
pub fn tests_program(root: &Path, name: &str) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["run", "--quiet", "--package", "lazaret-tests", "--bin", name, "--"]);
    command
}

fn download(vmlinuz: &Path, prefix: &str, suffix: &str) -> Result<()> {
    let package = newest(&apt_names(prefix)?, prefix, suffix)
        .with_context(|| format!("apt knows no package {prefix}*{suffix}; run `apt-get update` and look again"))?;
    let dir = vmlinuz.parent().context("the kernel's path has no directory")?;
    let unpacked = dir.join("unpacked");
    let _ = std::fs::remove_dir_all(&unpacked); // left by a run that was interrupted, or not there
    std::fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;

    eprintln!("kernel: downloading {package} (about 100 MB; unpacked for QEMU, not installed)");
    run(Command::new("apt-get").args(["--quiet", "download", &package]).current_dir(&unpacked))?;
    let deb = entry(&unpacked, |name| name.ends_with(".deb"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    // Both layouts of Debian: with and without a merged /usr.
    let lib = ["lib/modules", "usr/lib/modules"].map(|dir| unpacked.join(dir)).into_iter().find(|dir| dir.exists());
    let release = entry(&lib.context("the kernel package has no modules")?, |_| true)?;
    keep_loadable(&release, &dir.join(LOADABLE_DIR))?;
    keep_modules(&release, &MODULES, &dir.join("modules"))?;
    keep_modules(&release, &FOR_A_DISK, &dir.join("disk"))?;
    let image = entry(&unpacked.join("boot"), |name| name.starts_with("vmlinuz"))?;
    std::fs::rename(&image, vmlinuz).with_context(|| format!("cannot keep {}", vmlinuz.display()))?;
    std::fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    eprintln!("kernel: {} is {package}", vmlinuz.display());
    Ok(())
}

/// Keeps these modules, unpacked, under names that sort in the order of loading.
fn keep_modules(release: &Path, modules: &[&str], kept: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(kept); // of an older package, or not there
    std::fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
    for (i, module) in modules.iter().enumerate() {
        let plain = release.join("kernel").join(format!("{module}.ko"));
        let packed = plain.with_extension("ko.xz");
        if packed.exists() {
            run(Command::new("xz").arg("--decompress").arg(&packed))?;
        }
        let name = Path::new(module).file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !plain.exists() {
            continue; // not every kernel has it apart
        }
        let to = kept.join(format!("{i}-{name}.ko"));
        std::fs::rename(&plain, &to).with_context(|| format!("cannot keep {}", to.display()))?;
    }
    Ok(())
}

/// Keeps [`LOADABLE`] as the package has it, and the lists that `depmod` reads.
fn keep_loadable(release: &Path, kept: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(kept); // of an older package, or not there
    let to = kept.join(release.file_name().context("the modules are of no release")?);
    std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut parts: Vec<String> = LOADABLE.iter().map(|part| format!("./kernel/{part}")).collect();
    parts.extend(["modules.order", "modules.builtin", "modules.builtin.modinfo"].map(|name| format!("./{name}")));
    parts.retain(|part| release.join(part).exists());
    run(Command::new("cp").current_dir(release).args(["--archive", "--parents"]).args(parts).arg(&to))
}

fn apt_names(prefix: &str) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["pkgnames", prefix])
        .output()
        .context("cannot run apt-cache; the QEMU tests take their kernels from Debian's package lists")?;
    ensure!(output.status.success(), "apt-cache pkgnames {prefix} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The package with the highest release. What stands between prefix and suffix must be a plain number, which
/// leaves out the cloud, rt, unsigned and debug packages.
fn newest(names: &str, prefix: &str, suffix: &str) -> Option<String> {
    let release = |name: &str| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse::<u64>().ok();
    names.lines().filter_map(|name| Some((release(name)?, name))).max().map(|(_, name)| name.to_owned())
}

fn entry(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("the kernel package left nothing usable in {}", dir.display())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_wins_by_number() {
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-56-cloud-amd64\nlinux-image-6.1.0-56-amd64\n\
                     linux-image-6.1.0-57-rt-amd64\nlinux-image-6.1.0-58-amd64-unsigned\nlinux-image-6.1.0-59-amd64-dbg\n";
        assert_eq!(newest(names, LINES[0].1, LINES[0].2).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        let names =
            "linux-image-6.12.9+deb12-amd64\nlinux-image-6.12.117+deb12-amd64\nlinux-image-6.12.200+deb13-amd64\n";
        assert_eq!(newest(names, LINES[1].1, LINES[1].2).as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
    }
}
