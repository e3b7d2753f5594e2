//! `lazaret server add`: what the flags mean as a launch definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::admission::launch;
use crate::admission::{LaunchDefinition, Mount, Source};
use crate::api::client::AdminClient;
use crate::api::types::{AddServer, ServerView};
use crate::cli::args::server::ServerAddArgs;
use crate::cli::{CliError, out, review};

pub async fn run(admin: &AdminClient, args: ServerAddArgs) -> Result<(), CliError> {
    let name = args.name.clone();
    let cwd = std::env::current_dir()
        .map_err(|e| CliError::Failed(format!("cannot tell the current directory: {e}; change to one that exists")))?;
    let launch = definition(args, &cwd, |name| std::env::var(name).ok())?;
    let talk = review::launch(&launch);
    let server: ServerView = admin.post("/v1/servers", &AddServer { name, launch }).await?;
    out::say(talk);
    out::line(&server.name)?;
    out::say(format!(
        "{} is {}; nothing was fetched or run. Next: `lazaret server approve {}`",
        server.name, server.state, server.name
    ));
    Ok(())
}

fn definition(
    args: ServerAddArgs,
    cwd: &Path,
    from_env: impl Fn(&str) -> Option<String>,
) -> Result<LaunchDefinition, CliError> {
    let env = args.env.iter().map(|text| variable(text, &from_env)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let mounts = args.mounts.iter().map(|text| mount(text, cwd)).collect::<Result<Vec<_>, _>>()?;
    let (source, rest) = match (args.npm, args.pypi, args.local, args.image) {
        (Some(npm), ..) => {
            let (package, version) = npm_package(&npm);
            (Source::Npm { package, version, bin: None }, args.command)
        }
        (_, Some(pypi), ..) => {
            let (package, version) = match pypi.split_once("==") {
                Some((package, version)) => (package.to_owned(), Some(version.to_owned())),
                None => (pypi, None),
            };
            (Source::Pypi { package, version, script: None, module: None, with: Vec::new() }, args.command)
        }
        (_, _, Some(path), _) => (Source::Local { path: existing(&cwd.join(path))?, run: args.command }, Vec::new()),
        (_, _, _, Some(image)) => (Source::Image { image, run: args.command }, Vec::new()),
        (None, None, None, None) => {
            if args.command.is_empty() {
                return Err(CliError::Usage(
                    "cannot add a server without its source; name it with --npm, --pypi, --local or --image, or write its command after `--`".into(),
                ));
            }
            let mut launch = launch::from_argv(&args.command, &env, cwd).map_err(|e| CliError::Usage(e.to_string()))?;
            launch.mounts.extend(mounts);
            return Ok(launch);
        }
    };
    let configured = configured(&source, &rest);
    Ok(LaunchDefinition { source, args: rest, env, mounts, configured })
}

/// The command that stands for the flags, for people.
fn configured(source: &Source, args: &[String]) -> Vec<String> {
    let versioned = |package: &str, separator: &str, version: &Option<String>| match version {
        Some(version) => format!("{package}{separator}{version}"),
        None => package.to_owned(),
    };
    let mut command = match source {
        Source::Npm { package, version, .. } => {
            vec!["npx".to_owned(), "-y".to_owned(), versioned(package, "@", version)]
        }
        Source::Pypi { package, version, .. } => vec!["uvx".to_owned(), versioned(package, "==", version)],
        Source::Local { path, run } if run.is_empty() => vec![path.display().to_string()],
        Source::Local { run, .. } => run.clone(),
        Source::Image { image, run } => {
            [vec!["docker".to_owned(), "run".to_owned(), "-i".to_owned(), image.clone()], run.clone()].concat()
        }
    };
    command.extend_from_slice(args);
    command
}

/// `@scope/name@1.2.3`: the version's `@` is not the first character.
fn npm_package(text: &str) -> (String, Option<String>) {
    match text.rfind('@') {
        Some(at) if at > 0 => (text[..at].to_owned(), Some(text[at + 1..].to_owned())),
        _ => (text.to_owned(), None),
    }
}

fn variable(text: &str, from_env: impl Fn(&str) -> Option<String>) -> Result<(String, String), CliError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, from_env(text)),
    };
    if name.is_empty() {
        return Err(CliError::Usage(format!("cannot read --env {text:?}: it has no name; write NAME=VALUE or NAME")));
    }
    let value = value.ok_or_else(|| {
        CliError::Usage(format!("cannot take {name} from your environment: it is not set; write --env {name}=VALUE"))
    })?;
    Ok((name.to_owned(), value))
}

/// `HOST:CONTAINER`, `HOST:CONTAINER:rw` or `HOST:CONTAINER:ro`.
fn mount(text: &str, cwd: &Path) -> Result<Mount, CliError> {
    let usage = |why: &str| {
        CliError::Usage(format!("cannot read --mount {text:?}: {why}; write HOST:CONTAINER or HOST:CONTAINER:rw"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, writable) = match parts[..] {
        [host, container] | [host, container, "ro"] => (host, container, false),
        [host, container, "rw"] => (host, container, true),
        _ => return Err(usage("it does not have two paths")),
    };
    if host.is_empty() || !container.starts_with('/') {
        return Err(usage("the path in the cage must start with /"));
    }
    Ok(Mount { host: existing(&cwd.join(host))?, container: container.into(), writable })
}

/// The path without links and `..`, so that what is approved is what is named.
fn existing(path: &Path) -> Result<PathBuf, CliError> {
    std::fs::canonicalize(path).map_err(|e| {
        CliError::Usage(format!("cannot use {}: {e}; name a file or directory that exists", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command, server::ServerCommand};
    use clap::Parser as _;

    fn add(line: &[&str]) -> Result<LaunchDefinition, CliError> {
        let cli = Cli::try_parse_from(["lazaret", "server", "add", "x"].iter().chain(line)).unwrap();
        let Command::Server(ServerCommand::Add(args)) = cli.command else { panic!("not an add") };
        definition(args, Path::new("/"), |name| (name == "SET").then(|| "from-env".to_owned()))
    }

    #[test]
    fn a_scoped_package_keeps_its_scope_and_loses_its_version() {
        let launch = add(&["--npm", "@scope/pkg@1.2.3", "--", "/data"]).unwrap();
        assert_eq!(
            launch.source,
            Source::Npm { package: "@scope/pkg".into(), version: Some("1.2.3".into()), bin: None }
        );
        assert_eq!(launch.args, ["/data"]);
        assert_eq!(launch.configured, ["npx", "-y", "@scope/pkg@1.2.3", "/data"]);
        let launch = add(&["--npm", "@scope/pkg"]).unwrap();
        assert_eq!(launch.source, Source::Npm { package: "@scope/pkg".into(), version: None, bin: None });
        let launch = add(&["--pypi", "mcp-server-time==2026.1"]).unwrap();
        assert!(matches!(launch.source, Source::Pypi { version: Some(v), .. } if v == "2026.1"));
    }

    #[test]
    fn values_come_from_the_flag_or_from_the_environment() {
        let launch = add(&["--image", "a", "--env", "A=b=c", "--env", "SET"]).unwrap();
        assert_eq!(launch.env, [("A".to_owned(), "b=c".to_owned()), ("SET".to_owned(), "from-env".to_owned())].into());
        assert_eq!(add(&["--image", "a", "--env", "UNSET"]).unwrap_err().exit_code(), 2);
        assert_eq!(add(&["--image", "a", "--env", "=x"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_mount_is_read_only_unless_it_says_otherwise() {
        let launch = add(&["--image", "a", "--mount", "/tmp:/data", "--mount", "/usr/../tmp:/rw:rw"]).unwrap();
        assert_eq!(launch.mounts[0], Mount { host: "/tmp".into(), container: "/data".into(), writable: false });
        assert_eq!(launch.mounts[1], Mount { host: "/tmp".into(), container: "/rw".into(), writable: true });
        for bad in ["/tmp", "/tmp:data", "/tmp:/x:w", ":/x", "/nowhere-at-all:/x"] {
            assert_eq!(add(&["--image", "a", "--mount", bad]).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_server_needs_a_source() {
        assert_eq!(add(&[]).unwrap_err().exit_code(), 2);
    }
}
