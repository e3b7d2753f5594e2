//! `lazaret server add`: what the flags mean as a launch definition.

mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::admission::clients::Leave;
use crate::admission::launch;
use crate::admission::{Egress, LaunchDefinition, Mount, Source, egress, loads_code};
use crate::api::client::AdminClient;
use crate::api::types::{AddConfigured, AddServer, ServerView};
use crate::cli::args::server::ServerAddArgs;
use crate::cli::{CliError, out, review};
use crate::sandbox::unusable;

pub async fn run(admin: &AdminClient, args: ServerAddArgs) -> Result<(), CliError> {
    let name = args.name.clone();
    let from_config = args.from_config.is_some();
    let cwd = std::env::current_dir()
        .map_err(|e| CliError::Failed(format!("cannot tell the current directory: {e}; change to one that exists")))?;
    let from_env = |name: &str| std::env::var(name).ok();
    let server: ServerView = if from_config {
        admin.post("/v1/clients/adopt", &configured_entry(args, &cwd, from_env)?).await?
    } else {
        let launch = definition(args, &cwd, from_env)?;
        admin.post("/v1/servers", &AddServer { name, launch }).await?
    };
    out::say(review::launch(&server.launch));
    out::line(&server.name)?;
    if server.login.is_some_and(|login| !login.logged_in && !login.refreshes) {
        out::say(format!("{} wants a login first: `lazaret server login {}`", server.name, server.name));
    }
    out::say(format!(
        "{} is {}; nothing was fetched or run. Next: `lazaret server approve {}`",
        server.name, server.state, server.name
    ));
    Ok(())
}

/// The entry itself is the daemon's to read: it may lie in a home directory that the operator cannot look into.
fn configured_entry(
    args: ServerAddArgs,
    cwd: &Path,
    from_env: impl Fn(&str) -> Option<String>,
) -> Result<AddConfigured, CliError> {
    if !args.command.is_empty() {
        return Err(CliError::Usage("cannot use a command with --from-config: the entry has its own".into()));
    }
    let mut env = args.env.iter().map(|text| variable(text, &from_env)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let mut secrets = args.secrets.iter().map(|text| secret(text, cwd, &from_env)).collect::<Result<Vec<_>, _>>()?;
    let oauth = remote::oauth(&args.remote)?;
    if let Some(name) = oauth.as_ref().and_then(|oauth| oauth.client_secret.as_deref())
        && !secrets.iter().any(|(known, _)| known == name)
    {
        secrets.push(secret(name, cwd, &from_env)?);
    }
    let names = secrets.iter().map(|(name, _)| name.clone()).collect();
    env.extend(secrets);
    Ok(AddConfigured {
        name: args.name,
        entry: args.from_config.unwrap_or_default(),
        leave: Leave { private: args.remote.private, plain_http: args.remote.plain_http, oauth },
        mounts: args.mounts.iter().map(|text| mount(text, cwd)).collect::<Result<_, _>>()?,
        egress: egress(&args.egress, &args.egress_private)?,
        isolation: args.isolation,
        env,
        secrets: names,
    })
}

fn definition(
    args: ServerAddArgs,
    cwd: &Path,
    from_env: impl Fn(&str) -> Option<String>,
) -> Result<LaunchDefinition, CliError> {
    let mut env = args.env.iter().map(|text| variable(text, &from_env)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let mounts = args.mounts.iter().map(|text| mount(text, cwd)).collect::<Result<Vec<_>, _>>()?;
    let mut secrets = args.secrets.iter().map(|text| secret(text, cwd, &from_env)).collect::<Result<Vec<_>, _>>()?;
    if let Some(url) = &args.url {
        let remote = remote::definition(url, &args.remote)?;
        remote::refuse_what_is_of_a_cage(&args)?;
        for name in remote.secrets() {
            if !secrets.iter().any(|(known, _)| known == name) {
                secrets.push(secret(name, cwd, &from_env)?);
            }
        }
        let (configured, names) = (vec![remote.url().to_string()], secrets.iter().map(|(name, _)| name.clone()));
        return Ok(LaunchDefinition {
            source: Source::Remote(Box::new(remote)),
            args: Vec::new(),
            mounts: Vec::new(),
            egress: Vec::new(),
            secrets: names.collect(),
            env: secrets.into_iter().collect(),
            isolation: args.isolation,
            configured,
        });
    }
    let names: BTreeSet<String> = secrets.iter().map(|(name, _)| name.clone()).collect();
    env.extend(secrets);
    let egress = egress(&args.egress, &args.egress_private)?;
    let (source, rest) = match (args.npm, args.pypi, args.local, args.image) {
        (Some(npm), ..) => {
            let (package, version) = npm_package(&npm);
            (Source::Npm { package, version, bin: None }, args.command)
        }
        (_, Some(pypi), ..) => {
            let (package, version) = pypi_project(&pypi);
            (Source::Pypi { package, version, script: None, module: None, with: Vec::new() }, args.command)
        }
        (_, _, Some(path), _) => (Source::Local { path: existing(&cwd.join(path))?, run: args.command }, Vec::new()),
        (_, _, _, Some(image)) => (Source::Image { image, run: args.command }, Vec::new()),
        (None, None, None, None) => {
            if args.command.is_empty() {
                return Err(CliError::Usage(
                    "cannot add a server without its source; name it with --npm, --pypi, --local, --image, --url or --from-config, or write its command after `--`".into(),
                ));
            }
            let mut launch = launch::from_argv(&args.command, &env, cwd).map_err(|e| CliError::Usage(e.to_string()))?;
            launch.mounts.extend(mounts);
            launch.egress = egress;
            launch.secrets = names;
            launch.isolation = args.isolation;
            return Ok(launch);
        }
    };
    if let Some(why) = unusable(&source) {
        return Err(CliError::Usage(format!("cannot add {}: {why}", args.name)));
    }
    let configured = configured(&source, &rest);
    Ok(LaunchDefinition {
        source,
        args: rest,
        env,
        mounts,
        egress,
        secrets: names,
        isolation: args.isolation,
        configured,
    })
}

/// The command that stands for the flags, for people.
fn configured(source: &Source, args: &[String]) -> Vec<String> {
    let versioned = |package: &str, separator: &str, version: &Option<String>| match version {
        Some(range) if range.starts_with(OPERATORS) && separator == "==" => format!("{package}{range}"),
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
        Source::Remote(remote) => vec![remote.url().to_string()],
    };
    command.extend_from_slice(args);
    command
}

const OPERATORS: [char; 5] = ['<', '>', '=', '!', '~'];

/// `project`, `project==1.2.3` or a range of versions, `project>=1,<2`.
fn pypi_project(text: &str) -> (String, Option<String>) {
    let (project, version) = text.split_at(text.find(OPERATORS).unwrap_or(text.len()));
    let version = version.strip_prefix("==").unwrap_or(version).trim();
    (project.trim().to_owned(), Some(version.to_owned()).filter(|version| !version.is_empty() || text.contains('=')))
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

/// `NAME` or `NAME=@FILE`: the value itself has no place in an argv.
fn secret(text: &str, cwd: &Path, from_env: impl Fn(&str) -> Option<String>) -> Result<(String, String), CliError> {
    let usage = |what: String| Err(CliError::Usage(what));
    let (name, file) = match text.split_once('=') {
        Some((name, file)) => (name, Some(file)),
        None => (text, None),
    };
    if name.is_empty() {
        return usage("cannot read --secret: it has no name; write NAME or NAME=@FILE".into());
    }
    if loads_code(name) {
        return usage(format!(
            "cannot keep {name} secret: it decides which code runs, so that reviews show it; use --env"
        ));
    }
    let value = match file.map(|file| file.strip_prefix('@')) {
        None => from_env(name),
        // Not shown: it may be the secret.
        Some(None) => {
            return usage(format!(
                "cannot take the secret {name} from an argument, which others see; write --secret {name} or --secret {name}=@FILE"
            ));
        }
        Some(Some(path)) => {
            let path = cwd.join(path);
            let text = std::fs::read_to_string(&path).map_err(|e| {
                CliError::Usage(format!("cannot read the secret {name} from {}: {e}; name a text file", path.display()))
            })?;
            Some(
                text.strip_suffix('\n')
                    .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line))
                    .to_owned(),
            )
        }
    };
    match value {
        Some(value) if value.contains('\0') => {
            usage(format!("cannot use the secret {name}: it has a NUL byte; name a text file"))
        }
        Some(value) => Ok((name.to_owned(), value)),
        None => usage(format!(
            "cannot take {name} from your environment: it is not set; set it, or write --secret {name}=@FILE"
        )),
    }
}

/// Sorted, so that the order of the flags is no change; the private form wins over the other.
fn egress(public: &[String], private: &[String]) -> Result<Vec<Egress>, CliError> {
    let read = |flag: &'static str, text: &str, private| {
        Egress::parse(text, private)
            .map_err(|why| CliError::Usage(format!("cannot read {flag} {text:?}: {why}; write HOST:PORT")))
    };
    let mut entries = private.iter().map(|text| read("--egress-private", text, true)).collect::<Result<Vec<_>, _>>()?;
    for text in public {
        let entry = read("--egress", text, false)?;
        if !entries.iter().any(|known| known.host() == entry.host() && known.port() == entry.port()) {
            entries.push(entry);
        }
    }
    entries.sort();
    entries.dedup();
    if entries.len() > egress::MOST {
        return Err(CliError::Usage(format!(
            "cannot open {} hosts and ports to one server: {} are the most",
            entries.len(),
            egress::MOST
        )));
    }
    Ok(entries)
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
        definition(*args, Path::new("/"), |name| (name == "SET").then(|| "from-env".to_owned()))
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
    fn egress_is_normalised_sorted_and_refused_where_it_is_too_wide() {
        let launch = add(&[
            "--image",
            "a",
            "--egress",
            "B.example:443",
            "--egress-private",
            "a.example:80",
            "--egress",
            "a.example:80",
        ])
        .unwrap();
        assert_eq!(
            launch.egress.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a.example:80", "b.example:443"]
        );
        assert_eq!(launch.egress.iter().map(Egress::private).collect::<Vec<_>>(), [true, false]);
        assert_eq!(add(&["--egress", "a.example:1", "--", "npx", "-y", "pkg"]).unwrap().egress.len(), 1);
        for bad in ["*.example:443", "a.example", "10.0.0.1:80", "localhost:80"] {
            assert_eq!(add(&["--image", "a", "--egress", bad]).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_never_taken_from_an_argument() {
        let launch = add(&["--image", "a", "--secret", "SET"]).unwrap();
        assert_eq!(launch.env["SET"], "from-env");
        assert!(launch.secrets.contains("SET"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "line\r\n").unwrap();
        let launch = add(&["--image", "a", "--secret", &format!("TOKEN=@{}", file.path().display())]).unwrap();
        assert_eq!(launch.env["TOKEN"], "line");
        for bad in ["TOKEN=hunter2", "UNSET", "=@x", "NODE_OPTIONS", "TOKEN=@/no/such"] {
            let error = add(&["--image", "a", "--secret", bad]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_remote_server_has_its_secrets_by_name() {
        let header = "Authorization=Bearer secret:SET";
        let launch = add(&["--url", "https://MCP.example.com/mcp", "--header", header]).unwrap();
        let remote = launch.remote().unwrap();
        assert_eq!(remote.url().as_str(), "https://mcp.example.com/mcp");
        assert_eq!((remote.headers()[0].prefix.as_str(), remote.headers()[0].secret.as_str()), ("Bearer ", "SET"));
        assert_eq!((launch.env["SET"].as_str(), launch.secrets.contains("SET")), ("from-env", true));
        assert!(!serde_json::to_string(&crate::api::types::LaunchView::from(&launch)).unwrap().contains("from-env"));
        let launch =
            add(&["--url", "https://a.example/", "--oauth", "--oauth-scope", "b", "--oauth-scope", "a"]).unwrap();
        assert!(launch.remote().unwrap().oauth().is_some_and(|oauth| oauth.scopes.len() == 2));
        for bad in [
            &["--url", "http://a.example/"][..],
            &["--url", "https://a.example/", "--header", "Authorization=Bearer hunter2"],
            &["--url", "https://a.example/", "--header", "X=secret:UNSET"],
            &["--url", "https://a.example/", "--header", "Host=secret:SET"],
            &["--url", "https://a.example/", "--mount", "/tmp:/x"],
            &["--url", "https://a.example/", "--egress", "a.example:443"],
            &["--url", "https://a.example/", "--env", "A=b"],
            &["--url", "https://a.example/", "--", "npx"],
            &["--url", "http://127.0.0.1:1/", "--private"],
        ] {
            let error = add(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_package_that_no_registry_can_have_is_refused_before_it_is_added() {
        let version = |pypi: &str| match add(&["--pypi", pypi]).unwrap().source {
            Source::Pypi { package, version, .. } => (package, version),
            other => panic!("{other:?}"),
        };
        assert_eq!(version("a-b==1.2"), ("a-b".into(), Some("1.2".into())));
        assert_eq!(version("a-b>=0.1,<0.2"), ("a-b".into(), Some(">=0.1,<0.2".into())));
        assert_eq!(version("a-b"), ("a-b".into(), None));
        assert_eq!(add(&["--pypi", "a>=1,<2"]).unwrap().configured, ["uvx", "a>=1,<2"]);
        for bad in [
            ["--npm", "github:a/b"],
            ["--npm", "git+https://a.example/b.git"],
            ["--npm", "../a"],
            ["--npm", "a@file:../b"],
            ["--pypi", "git+https://a.example/b.git"],
            ["--pypi", "a=="],
            ["--pypi", "a @ https://b.example/c.whl"],
        ] {
            assert!(matches!(add(&bad), Err(error) if error.exit_code() == 2), "{bad:?}");
        }
    }

    #[test]
    fn a_server_needs_a_source() {
        assert_eq!(add(&[]).unwrap_err().exit_code(), 2);
    }
}
