//! What the global flags mean: which instance is talked to, and who is talking.

use std::path::{Path, PathBuf};

use super::args::Globals;
use crate::api::client::AdminClient;
use crate::api::users;
use crate::config::{self, Config, ConfigError, Paths};

pub struct Instance {
    pub paths: Paths,
}

impl Instance {
    pub fn new(globals: Globals) -> Self {
        let config = globals.config.clone().unwrap_or_else(|| config::DEFAULT_CONFIG.into());
        let policy_dir = globals.policy_dir.unwrap_or_else(|| {
            config.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).join("policy.d")
        });
        let mut paths = Paths {
            config,
            config_explicit: globals.config.is_some(),
            state_dir: globals.state_dir.unwrap_or_else(|| config::DEFAULT_STATE_DIR.into()),
            run_dir: globals.run_dir.unwrap_or_else(|| config::DEFAULT_RUN_DIR.into()),
            policy_dir,
            bpf_dir: PathBuf::new(),
        };
        paths.bpf_dir = globals.bpf_dir.unwrap_or_else(|| {
            if paths.run_dir == Path::new(config::DEFAULT_RUN_DIR) {
                config::DEFAULT_BPF_DIR.into()
            } else {
                format!("{}-{}", config::DEFAULT_BPF_DIR, paths.instance()).into()
            }
        });
        Self { paths }
    }

    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::load(&self.paths.config, self.paths.config_explicit)
    }

    pub fn admin(&self) -> AdminClient {
        AdminClient::new(self.paths.admin_socket())
    }
}

/// The human at the keyboard: under sudo the one who called it.
#[derive(Debug, Clone)]
pub struct Human {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    pub home: PathBuf,
    /// This process is root on behalf of another user: files of that user must be touched as that user.
    pub behind_sudo: bool,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot tell whose home directory is meant: {cause}; set HOME, or name the file with --key or the directory with --home"
)]
pub struct NoHuman {
    cause: String,
}

impl Human {
    pub fn invoking() -> Result<Self, NoHuman> {
        let own = users::own_uid().map_err(|e| NoHuman { cause: format!("/proc/self cannot be read ({e})") })?;
        let sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse::<u32>().ok());
        if let (0, Some(uid)) = (own, sudo.filter(|uid| *uid != 0)) {
            let user = users::by_uid(uid)
                .ok_or_else(|| NoHuman { cause: format!("SUDO_UID is {uid}, and /etc/passwd has no such user") })?;
            return Ok(Self { uid, gid: user.gid, name: user.name, home: user.home, behind_sudo: true });
        }
        let user = users::by_uid(own);
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = home
            .or_else(|| user.as_ref().map(|user| user.home.clone()))
            .ok_or_else(|| NoHuman { cause: format!("HOME is not set and /etc/passwd has no uid {own}") })?;
        Ok(Self {
            uid: own,
            gid: user.as_ref().map_or(own, |user| user.gid),
            name: user.map_or_else(|| format!("uid{own}"), |user| user.name),
            home,
            behind_sudo: false,
        })
    }

    /// Whose home directory `home` is.
    pub fn of_home(home: &Path) -> Result<Self, NoHuman> {
        use std::os::unix::fs::MetadataExt as _;
        let failed = |e: std::io::Error| NoHuman { cause: format!("{} cannot be looked at ({e})", home.display()) };
        let home = std::fs::canonicalize(home).map_err(failed)?;
        let meta = std::fs::metadata(&home).map_err(failed)?;
        let own = users::own_uid().map_err(failed)?;
        Ok(Self {
            uid: meta.uid(),
            gid: meta.gid(),
            name: users::by_uid(meta.uid()).map_or_else(|| format!("uid{}", meta.uid()), |user| user.name),
            home,
            behind_sudo: own == 0 && meta.uid() != 0,
        })
    }

    /// The name as a segment of an AMP address: lower case letters, digits and inner hyphens.
    pub fn segment(&self) -> String {
        let text: String = self
            .name
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .collect();
        let text = text.trim_matches('-');
        if text.is_empty() { format!("uid{}", self.uid) } else { text.chars().take(63).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_lie_beside_the_configuration_and_pins_never_meet_those_of_another_instance() {
        let default = Instance::new(Globals::default()).paths;
        assert_eq!(default.policy_dir, Path::new("/etc/lazaret/policy.d"));
        assert_eq!(default.bpf_dir, Path::new(config::DEFAULT_BPF_DIR));
        assert!(!default.config_explicit);
        let moved = |state: &str| {
            let globals = Globals {
                config: Some("lazaret.toml".into()),
                state_dir: Some(state.into()),
                run_dir: Some("/tmp/r".into()),
                ..Globals::default()
            };
            Instance::new(globals).paths
        };
        assert_eq!(moved("/tmp/a").policy_dir, Path::new("./policy.d"));
        assert!(moved("/tmp/a").config_explicit);
        assert_ne!(moved("/tmp/a").bpf_dir, moved("/tmp/b").bpf_dir);
        assert_ne!(moved("/tmp/a").bpf_dir, default.bpf_dir);
    }

    #[test]
    fn any_user_name_becomes_a_segment_of_an_address() {
        let human = |name: &str| Human { uid: 7, gid: 7, name: name.into(), home: "/".into(), behind_sudo: false };
        assert_eq!(human("Ann.Lee_2").segment(), "ann-lee-2");
        assert_eq!(human("_").segment(), "uid7");
    }
}
