//! `docker run -i [options] IMAGE args`.
//!
//! Options that would loosen the cage (network, capabilities, devices, namespaces) are not taken
//! over: the cage decides those. Mounts are, because a person sees them in the review.

use super::{Found, LaunchError, Mount, Reading, Source, unclear};

const SWITCHES: &[&str] = &[
    "-i",
    "--interactive",
    "--rm",
    "--init",
    "--read-only",
    "--privileged",
    "-P",
    "--publish-all",
    "--no-healthcheck",
    "--oom-kill-disable",
    "-q",
    "--quiet",
    "--sig-proxy",
    "--disable-content-trust",
    "--replace",
];
const VALUED: &[&str] = &[
    "--name",
    "--network",
    "--net",
    "--network-alias",
    "-w",
    "--workdir",
    "-u",
    "--user",
    "-p",
    "--publish",
    "--expose",
    "-l",
    "--label",
    "-m",
    "--memory",
    "--memory-swap",
    "--cpus",
    "-c",
    "--cpu-shares",
    "--cpuset-cpus",
    "--pids-limit",
    "--cap-add",
    "--cap-drop",
    "--security-opt",
    "--device",
    "--gpus",
    "--pid",
    "--ipc",
    "--uts",
    "--userns",
    "--cgroupns",
    "--cgroup-parent",
    "--tmpfs",
    "--add-host",
    "--dns",
    "--hostname",
    "-h",
    "--platform",
    "--pull",
    "--restart",
    "--runtime",
    "--shm-size",
    "--sysctl",
    "--ulimit",
    "--log-driver",
    "--log-opt",
    "--stop-signal",
    "--stop-timeout",
    "--group-add",
    "--isolation",
    "--cidfile",
    "-a",
    "--attach",
    "--health-cmd",
    "--label-file",
];
const GLOBAL_VALUED: &[&str] = &["--config", "-c", "--context", "-l", "--log-level"];

impl Reading {
    pub(super) fn container(&mut self, command: &str, words: &[String]) -> Found {
        let mut i = 0;
        while let Some(word) = words.get(i).filter(|word| word.starts_with('-')) {
            if matches!(word.as_str(), "-H" | "--host") || word.starts_with("--host=") {
                return Err(unclear(
                    command,
                    "the image is on another host",
                    "pull it here, and write `docker run -i IMAGE`",
                ));
            }
            i += 1 + usize::from(GLOBAL_VALUED.contains(&word.as_str()));
        }
        if words.get(i).is_some_and(|word| word == "container") {
            i += 1;
        }
        if words.get(i).is_none_or(|word| word != "run") {
            return Err(unclear(command, "only `run` starts a server", "write `docker run -i IMAGE`"));
        }
        self.run(command, &words[i + 1..])
    }

    fn run(&mut self, command: &str, words: &[String]) -> Found {
        let client_env = std::mem::take(&mut self.env);
        let mut run = Vec::new();
        let mut i = 0;
        while let Some(word) = words.get(i).filter(|word| word.starts_with('-')) {
            i += 1;
            if word == "--" {
                break;
            }
            let (key, inline) = match word.split_once('=') {
                Some((key, value)) if key.starts_with("--") => (key, Some(value.to_owned())),
                _ if !word.starts_with("--") && word.len() > 2 && !cluster(word) => {
                    (&word[..word.ceil_char_boundary(2)], Some(word[word.ceil_char_boundary(2)..].to_owned()))
                }
                _ => (word.as_str(), None),
            };
            if SWITCHES.contains(&key) || cluster(key) {
                continue;
            }
            let value = match inline {
                Some(value) => value,
                None => {
                    i += 1;
                    let next = words.get(i - 1).cloned();
                    next.ok_or_else(|| unclear(command, &format!("nothing follows {key}"), "write the whole command"))?
                }
            };
            match key {
                "-e" | "--env" => match value.split_once('=') {
                    Some((name, value)) => drop(self.env.insert(name.into(), value.into())),
                    // Without a value it is passed on from the client's own environment.
                    None => drop(self.env.insert(value.clone(), client_env.get(&value).cloned().unwrap_or_default())),
                },
                "--entrypoint" => run = vec![value],
                "-v" | "--volume" => self.mounts.push(volume(command, &value)?),
                "--mount" => self.mounts.push(mount(command, &value)?),
                "--env-file" | "--volumes-from" => {
                    return Err(unclear(
                        command,
                        &format!("{key} names things outside of the command"),
                        "write them out with -e or -v",
                    ));
                }
                _ if VALUED.contains(&key) => {}
                _ => {
                    return Err(unclear(
                        command,
                        &format!("its option {key} is not known"),
                        "write the command without it",
                    ));
                }
            }
        }
        let Some(image) = words.get(i).filter(|image| is_image(image)) else {
            return Err(unclear(command, "it names no image", "write `docker run -i IMAGE`"));
        };
        Ok((Source::Image { image: image.clone(), run }, words[i + 1..].to_vec()))
    }
}

/// `-it`, `-di`: letters that are switches each.
fn cluster(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|letters| {
        !letters.is_empty() && letters.bytes().all(|c| matches!(c, b'i' | b't' | b'd' | b'P' | b'q'))
    }) || matches!(word, "--tty" | "--detach")
}

fn is_image(image: &str) -> bool {
    image.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
        && image.len() <= 512
        && image
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'/' | b':' | b'@' | b'+'))
}

/// `HOST:CONTAINER[:OPTIONS]`; a name without a slash is a volume of Docker's.
fn volume(command: &str, text: &str) -> Result<Mount, LaunchError> {
    let mut parts = text.split(':');
    let (host, container) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let options = parts.next().unwrap_or_default();
    host_mount(command, host, container, !options.split(',').any(|option| option == "ro"))
}

/// `type=bind,source=HOST,target=CONTAINER[,readonly]`
fn mount(command: &str, text: &str) -> Result<Mount, LaunchError> {
    let field = |names: &[&str]| {
        let mut pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| names.contains(key)).map(|(_, value)| value)
    };
    if field(&["type"]).is_some_and(|kind| kind != "bind") {
        return Err(unclear(command, &format!("the mount {text:?} is no directory of this host"), "leave it out"));
    }
    let readonly = text.split(',').any(|option| matches!(option, "readonly" | "ro" | "readonly=true" | "ro=true"));
    let (host, container) = (field(&["source", "src"]), field(&["target", "dst", "destination"]));
    host_mount(command, host.unwrap_or_default(), container.unwrap_or_default(), !readonly)
}

fn host_mount(command: &str, host: &str, container: &str, writable: bool) -> Result<Mount, LaunchError> {
    let refuse = |why: &str| Err(unclear(command, &format!("the mount of {host:?} {why}"), "leave it out"));
    if !host.starts_with('/') || !container.starts_with('/') || [host, container].iter().any(|path| path.contains('\0'))
    {
        return refuse("is not of an absolute path to an absolute path");
    }
    let path: std::path::PathBuf = std::path::Path::new(host).components().collect();
    let system = ["/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/etc", "/var/lib/docker", "/var/lib/lazaret"];
    let up = path.components().any(|part| part == std::path::Component::ParentDir);
    if up || path.components().count() < 2 || system.iter().any(|dir| path.starts_with(dir)) {
        return refuse("would open the host to the server");
    }
    Ok(Mount { host: path, container: container.into(), writable })
}
