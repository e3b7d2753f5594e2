//! Launchers of npm packages: npx and its relatives.

use super::{Found, Source, unclear, words};

/// Options of npx, bunx, `npm exec`, `pnpm dlx`, `yarn dlx` that take no value. For npx, whatever
/// else begins with `-` takes the next word, unless that begins with `-` too (npm's npx-cli.js).
const SWITCHES: &[&str] = &[
    "y",
    "yes",
    "no",
    "n",
    "no-install",
    "q",
    "quiet",
    "s",
    "silent",
    "d",
    "dd",
    "ddd",
    "verbose",
    "offline",
    "prefer-offline",
    "prefer-online",
    "ignore-existing",
    "no-update-notifier",
    "no-audit",
    "no-fund",
    "audit",
    "fund",
    "bun",
    "force",
    "f",
    "global",
    "g",
    "ignore-scripts",
    "legacy-peer-deps",
    "no-progress",
    "progress",
    "color",
    "no-color",
    "json",
    "workspaces",
    "ws",
    "include-workspace-root",
    "aggregate-output",
    "always-spawn",
    "shell-auto-fallback",
    "shell-mode",
    "strict-ssl",
    "package-lock",
    "no-package-lock",
    "save",
    "no-save",
    "silent",
];

/// `npx [options] PACKAGE[@VERSION] args` and `npx -p PACKAGE [--] BIN args`.
pub(super) fn npx(command: &str, rest: &[String]) -> Found {
    exec(command, rest, true)
}

/// `bunx [options] PACKAGE[@VERSION] args`: unknown options take no value.
pub(super) fn bunx(command: &str, rest: &[String]) -> Found {
    exec(command, rest, false)
}

/// `npm exec`, `npm x`, `pnpm dlx`, `yarn dlx`.
pub(super) fn manager(command: &str, rest: &[String]) -> Found {
    let at = rest.iter().position(|word| !word.starts_with('-')).unwrap_or(rest.len());
    match rest.get(at).map(String::as_str) {
        Some("exec" | "x") if command.starts_with("npm") => {
            let options: Vec<String> = rest[..at].iter().chain(&rest[at + 1..]).cloned().collect();
            exec(&format!("{command} exec"), &options, true)
        }
        Some("dlx") if !command.starts_with("npm") => exec(&format!("{command} dlx"), &rest[at + 1..], false),
        _ => Err(unclear(
            command,
            "only exec and dlx name a package; scripts of a package.json are a shell's business",
            "write the command that the script runs, such as `node dist/index.js`",
        )),
    }
}

fn exec(command: &str, rest: &[String], greedy: bool) -> Found {
    let mut package: Option<&str> = None;
    let mut call: Option<&str> = None;
    let mut i = 0;
    while let Some(word) = rest.get(i).map(String::as_str) {
        if word == "--" {
            i += 1;
            break;
        }
        let Some(option) = word.strip_prefix('-').filter(|option| !option.is_empty()) else { break };
        let (key, inline) = match option.trim_start_matches('-').split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option.trim_start_matches('-'), None),
        };
        i += 1;
        let takes = matches!(key, "p" | "package" | "c" | "call" | "registry" | "cache" | "userconfig" | "prefix");
        let mut value = inline;
        if inline.is_none() && !SWITCHES.contains(&key) {
            let next = rest.get(i).map(String::as_str);
            if takes || (greedy && next.is_some_and(|next| !next.starts_with('-'))) {
                value = next;
                i += 1;
            }
        }
        match key {
            "p" | "package" if package.is_some() => {
                return Err(unclear(
                    command,
                    "it names more than one package",
                    "name only the package that the server comes from",
                ));
            }
            "p" | "package" => package = value,
            "c" | "call" => call = value,
            "registry" => {
                return Err(unclear(
                    command,
                    "it takes its package from another registry",
                    "configure that registry for reviews instead",
                ));
            }
            _ => {}
        }
    }
    let mut rest = rest.get(i..).unwrap_or_default().to_vec();
    if let Some(call) = call {
        rest = words::simple_command(call)
            .map_err(|why| unclear(command, &why, "write the one command that starts the server, without --call"))?;
    }
    let missing = || unclear(command, "it names no package", "write the package after it, such as `npx -y PACKAGE`");
    if let Some(spec) = package {
        if rest.is_empty() {
            return Err(missing());
        }
        let bin = rest.remove(0);
        return Ok((source(command, spec, Some(bin))?, rest));
    }
    if rest.is_empty() {
        return Err(missing());
    }
    let spec = rest.remove(0);
    Ok((source(command, &spec, None)?, rest))
}

/// `name`, `@scope/name`, each with `@version`, or an alias `x@npm:name@version`.
fn source(command: &str, spec: &str, bin: Option<String>) -> Result<Source, super::LaunchError> {
    let spec = spec.split_once("@npm:").map_or(spec, |(_, real)| real);
    let at = spec.get(1..).and_then(|rest| rest.find('@')).map(|at| at + 1);
    let (name, version) = match at {
        Some(at) => (&spec[..at], Some(&spec[at + 1..])),
        None => (spec, None),
    };
    if matches!(name, "tsx" | "ts-node" | "nodemon" | "concurrently") {
        return Err(unclear(
            command,
            &format!("{name} runs a program of this host, which no package names"),
            "build the program and write `node dist/index.js`",
        ));
    }
    if !is_package(name) || version.is_some_and(|version| !is_version(version)) {
        return Err(unclear(
            command,
            &format!("{spec:?} is no package of the npm registry"),
            "clone or download it, and write `node PATH/TO/index.js`",
        ));
    }
    let version = version.filter(|version| !version.is_empty() && *version != "latest").map(str::to_owned);
    Ok(Source::Npm { package: name.into(), version, bin })
}

/// npm's rules for names, as far as they keep a name from being anything else.
pub(super) fn is_package(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-', '_'])
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'~'))
    };
    name.len() <= 214
        && match name.strip_prefix('@') {
            Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
            None => part(name),
        }
}

/// A version, a range without spaces, or a dist-tag.
fn is_version(version: &str) -> bool {
    !version.starts_with('-')
        && version
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'+' | b'_' | b'~' | b'^' | b'*'))
}
