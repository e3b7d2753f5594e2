//! A review as a person reads it before a decision: everything, and nothing shortened.
//!
//! The server chose most of these words, so that every one passes through [`out::visible`].

mod changes;
mod tools;

use std::fmt::Write as _;

use serde_json::Value;

use super::{out, when};
use crate::admission::{Isolation, Remote, Review, Source};
use crate::api::types::{LaunchView, ServerView, ToolView};
use crate::remote::LoginView;

/// What the cage gives to every server beside its lack of a network, in one sentence.
const CAGE: &str =
    "no capabilities, no new privileges, read-only root, non-root user, seccomp, limits on memory, cpu and processes";

pub(super) use changes::lines as changed_lines;
pub(super) use tools::{lines as tool_lines, pretty};

/// `full` adds what is else only counted: the whole descriptors, the lock and the package.
pub fn text(server: &ServerView, tools: &[ToolView], full: bool) -> String {
    let mut text = Page::default();
    text.field("server", &server.name);
    text.field("state", &state(server));
    text.field("from", &server.origin);
    text.field("source", &source(&server.launch.source));
    text.field("configured", &out::shell(&server.launch.configured));
    if let Source::Remote(definition) = &server.launch.source {
        remote(&mut text, definition);
    }
    if let Some(state) = &server.login {
        text.field("login", &login(state));
    }
    let is_remote = matches!(server.launch.source, Source::Remote(_));
    let Some(review) = &server.review else {
        loosenings(&mut text, &server.launch);
        text.field("review", &format!("none yet; run `lazaret server review {}`", server.name));
        history(&mut text, server);
        return text.0;
    };
    text.field("reviewed", &when(review.at));
    if !is_remote {
        package(&mut text, review);
        text.field("image", &review.image_id);
        text.field("runs", &out::shell(&review.argv));
        let network = if server.launch.egress.is_empty() { "no network" } else { "no network but what is named below" };
        text.field("cage", &format!("{network}, {CAGE}"));
    }
    loosenings(&mut text, &server.launch);
    text.field(
        "protocol",
        &format!("MCP {}, says that it is {}", review.protocol_version, compact(&review.server_info)),
    );
    if let Some(instructions) = &review.instructions {
        text.block("instructions", instructions);
    }
    if let Some(offers) = review.offers.as_ref().filter(|offers| !offers.is_empty()) {
        let pinned = "the list of resources is the server's at any time, all else is pinned";
        text.field("offers", &format!("tools, {} ({pinned})", offers.join(", ")));
    }
    for (label, listed) in [("prompts", &review.prompts), ("templates", &review.resource_templates)] {
        if !matches!(listed.trim(), "" | "[]") {
            text.block(label, listed);
        }
    }
    text.line("");
    text.line(&format!("tools ({})", tools.len()));
    for tool in tools {
        for line in tool_lines(tool, full) {
            text.line(&line);
        }
    }
    if full {
        dependencies(&mut text, &review.lock);
        for (label, value) in
            [("package", &review.package), ("lock", &review.lock), ("server info", &review.server_info)]
        {
            let mut value = value.clone();
            let files = value.as_object_mut().and_then(|value| value.remove("files"));
            text.block(label, &pretty(&value.to_string()));
            for (name, file) in files.iter().filter_map(Value::as_object).flatten() {
                text.block(name, file.as_str().unwrap_or_default());
            }
        }
    } else {
        text.line("");
        text.line(&out::visible(&format!(
            "`lazaret server show {} --full` shows the descriptors and the lock whole",
            server.name
        )));
    }
    text.line("");
    match review.findings.len() {
        0 => text.line("findings      none by the automatic look, which proves nothing"),
        n => text.line(&format!("findings ({n}): read these first")),
    }
    for finding in &review.findings {
        text.line(&format!("  {:<17}{}: {}", finding.kind, out::visible(&finding.place), out::visible(&finding.text)));
    }
    text.line("");
    history(&mut text, server);
    text.field("pin", &review.pin);
    if let Some(decided) = server.decided_pin.as_ref().filter(|pin| **pin != review.pin) {
        text.field("decided pin", &format!("{decided}: it has changed since the decision"));
    }
    text.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn field(&mut self, label: &str, value: &str) {
        let _ = writeln!(self.0, "{label:<14}{}", out::visible(value));
    }

    /// A longer text, indented, with its own line breaks.
    fn block(&mut self, label: &str, value: &str) {
        self.line(label);
        for line in value.lines() {
            self.line(&format!("    {}", out::visible(line)));
        }
    }
}

fn state(server: &ServerView) -> String {
    match (server.active, &server.container) {
        (true, Some(origin)) if origin.contains("://") => format!("{}, connected to at {origin}", server.state),
        (true, Some(container)) => format!("{}, running in container {}", server.state, short(container)),
        (true, None) => format!("{}, started by its first call", server.state),
        (false, _) => format!("{}: it serves no calls", server.state),
    }
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

pub fn source(source: &Source) -> String {
    let versioned = |package: &str, separator: &str, version: &Option<String>| match version {
        Some(range) if separator == "==" && range.starts_with(['<', '>', '=', '!', '~']) => format!("{package}{range}"),
        Some(version) => format!("{package}{separator}{version}"),
        None => package.to_owned(),
    };
    match source {
        Source::Npm { package, version, .. } => format!("npm {}", versioned(package, "@", version)),
        Source::Pypi { package, version, with, .. } => {
            let with: String = with.iter().map(|spec| format!(" with {spec}")).collect();
            format!("pypi {}{with}", versioned(package, "==", version))
        }
        Source::Local { path, .. } => format!("local {}", path.display()),
        Source::Image { image, .. } => format!("image {image}"),
        Source::Remote(remote) => format!("remote {}", remote.url()),
    }
}

/// Where it is, and what it is told beside the calls.
fn remote(text: &mut Page, remote: &Remote) {
    text.field(
        "reached",
        match (remote.plain_http(), remote.private()) {
            (true, _) => "over PLAIN HTTP, on this host only",
            (false, true) => "over TLS, also in a PRIVATE network or on this host",
            (false, false) => "over TLS, at public addresses only",
        },
    );
    text.field("runs", "elsewhere: nothing of it runs here, and whoever runs it sees what its calls tell it");
    for header in remote.headers() {
        text.field("header", &format!("{}: {}(secret {})", header.name, header.prefix, header.secret));
    }
    if let Some(oauth) = remote.oauth() {
        let mut words = vec![format!("OAuth, {}", oauth.grant.as_str())];
        words.extend(oauth.client_id.as_ref().map(|id| format!("client {id}")));
        words.extend(oauth.client_secret.as_ref().map(|name| format!("its secret {name}")));
        words.extend(oauth.issuer.as_ref().map(|issuer| format!("only by {issuer}")));
        let scopes: Vec<&str> = oauth.scopes.iter().map(String::as_str).collect();
        words.extend((!scopes.is_empty()).then(|| format!("scopes {}", scopes.join(" "))));
        text.field("wants", &words.join(", "));
    }
}

/// Whether somebody is logged in, and until when.
pub fn login(login: &LoginView) -> String {
    let who = match (&login.issuer, &login.by) {
        (Some(issuer), Some(by)) => format!(" by {by} at {issuer}"),
        (Some(issuer), None) => format!(" at {issuer}"),
        _ => String::new(),
    };
    let scope = login.scope.as_ref().map(|scope| format!(", scope {scope}")).unwrap_or_default();
    let until = match (login.until, login.refreshes) {
        (Some(until), true) => format!(" until {}, renewed by itself", when(until)),
        (Some(until), false) => format!(" until {}", when(until)),
        (None, _) => String::new(),
    };
    match (login.logged_in, login.since.is_some()) {
        (true, _) => format!("logged in{who}{until}{scope}"),
        (false, true) => format!("the login has ended{until}; run `lazaret server login`"),
        (false, false) if login.refreshes => "by itself, at the first call".into(),
        (false, false) => "nobody is logged in; run `lazaret server login`".into(),
    }
}

fn package(text: &mut Page, review: &Review) {
    let package = &review.package;
    let known = |key: &str| said(&package[key]).unwrap_or_else(|| "not said".to_owned());
    text.field("package", &format!("{} {}", known("name"), said(&package["version"]).unwrap_or_default()));
    text.field("publisher", &known("publisher"));
    text.field("licence", &known("license"));
    if let Some(repository) = said(&package["repository"]).or_else(|| said(&package["homepage"])) {
        text.field("home", &repository);
    }
    let scripts = package["install_scripts"].as_object().map(|scripts| scripts.len()).unwrap_or_default();
    let of = package["install_scripts_of"].as_array().cloned().unwrap_or_default();
    text.field(
        "scripts",
        &match (scripts, of.len()) {
            (0, 0) if package["kind"] == "image" => {
                "not known: the image was made elsewhere, and is taken as it is".to_owned()
            }
            (0, 0) if package["kind"] == "pypi" => "none: wheels only, which run nothing when installed".to_owned(),
            (0, 0) => "no install scripts".to_owned(),
            (0, _) => format!("of packages below it, NOT run: {}", list(&of)),
            _ => format!("install scripts, NOT run: {} {}", package["install_scripts"], list(&of)),
        },
    );
    let sets = package["env"].as_array().map(|names| list(names)).filter(|names| !names.is_empty());
    if let Some(names) = sets {
        text.field("image sets", &names);
    }
    // Of the package itself, which is in the lock like any other.
    let own = match package["kind"].as_str() {
        Some("npm") => Some(said(&review.lock["packages"][format!("node_modules/{}", known("name"))]["integrity"])),
        Some("pypi") => {
            Some(said(&review.lock["packages"][known("name")]["hashes"]["sha256"]).map(|hash| format!("sha256:{hash}")))
        }
        _ => None,
    };
    if let Some(own) = own {
        text.field("integrity", &own.unwrap_or_else(|| "NONE".to_owned()));
    }
    lock(text, &review.lock);
}

/// What the image is made of, and what of it is known only by its name.
fn lock(text: &mut Page, lock: &Value) {
    if let Some(layers) = lock["layers"].as_array() {
        let digests = lock["digests"].as_array().map(|digests| list(digests)).unwrap_or_default();
        let id = said(&lock["id"]).unwrap_or_default();
        return text.field("lock", format!("{} layers of {id} {digests}", layers.len()).trim_end());
    }
    if let Some(tree) = said(&lock["tree"]) {
        text.field("files", &tree);
    }
    let packages: Vec<_> = lock["packages"].as_object().into_iter().flatten().collect();
    let known = |entry: &Value| {
        let hashes = &entry["hashes"];
        entry["integrity"].is_string()
            || entry["link"] == true
            || !matches!(hashes, Value::Null) && *hashes != serde_json::json!({})
    };
    let without: Vec<&str> =
        packages.iter().filter(|(_, entry)| !known(entry)).map(|(name, _)| name.as_str()).collect();
    if let Some(built) = said(&lock["built"]) {
        text.field("built", &format!("{built}, over every file in it"));
    }
    let integrity = match without.len() {
        0 => "each with its integrity hash".to_owned(),
        n => format!("{n} WITHOUT an integrity hash: {}", without.join(", ")),
    };
    text.field("lock", &format!("{} packages, {integrity}", packages.len()));
}

/// Each package of the image in one line.
fn dependencies(text: &mut Page, lock: &Value) {
    let Some(packages) = lock["packages"].as_object() else { return };
    text.line(&format!("packages ({})", packages.len()));
    for (name, entry) in packages {
        let known = |key: &str| said(&entry[key]).unwrap_or_default();
        let scripts = if entry["hasInstallScript"] == true { ", HAS INSTALL SCRIPTS (not run)" } else { "" };
        let licence = said(&entry["license"]).unwrap_or_else(|| "no licence said".to_owned());
        let line = format!("{} {} ({licence}{scripts})", name.trim_start_matches("node_modules/"), known("version"));
        text.line(&format!("    {}", out::visible(&line)));
    }
}

/// A string, or the name in npm's `{"name": ..., "url": ...}`.
fn said(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Object(_) => ["name", "url"].iter().find_map(|key| said(&value[*key])),
        _ => None,
    }
}

fn list(values: &[Value]) -> String {
    values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn compact(value: &Value) -> String {
    match value {
        Value::Object(members) if members.get("name").is_some() => {
            format!("{} {}", said(&value["name"]).unwrap_or_default(), said(&value["version"]).unwrap_or_default())
        }
        Value::Null => "nothing".to_owned(),
        value => value.to_string(),
    }
}

/// Whose state meets in one container.
fn isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Shared => "shared: one container for all agents, with what each left in it",
        Isolation::PerAgent => "per-agent: a container for each agent",
        Isolation::PerSession => "per-session: a container for each session, which ends with it",
    }
}

fn loosenings(text: &mut Page, launch: &LaunchView) {
    let is_remote = matches!(launch.source, Source::Remote(_));
    let shared = isolation(launch.isolation);
    text.field("isolation", &if is_remote { shared.replace("container", "connection") } else { shared.to_owned() });
    for mount in &launch.mounts {
        let how = if mount.writable { "WRITABLE" } else { "read-only" };
        text.field("loosening", &format!("sees {} as {}, {how}", mount.host.display(), mount.container.display()));
    }
    for egress in &launch.egress {
        let how = if egress.private() { ", PRIVATE addresses included" } else { "" };
        text.field("loosening", &format!("reaches {egress}{how}"));
    }
    let (secrets, plain): (Vec<&str>, Vec<&str>) =
        launch.env_names.iter().map(String::as_str).partition(|name| launch.secrets.contains(*name));
    for (label, names) in [("environment", plain), ("secrets", secrets)] {
        if !names.is_empty() {
            text.field(label, &names.join(", "));
        }
    }
    for (name, value) in &launch.code_env {
        text.field("loads code", &format!("{name}={}", out::shell(&[value])));
    }
    if launch.mounts.is_empty() && launch.egress.is_empty() && !is_remote {
        text.field("loosenings", "none");
    }
}

fn history(text: &mut Page, server: &ServerView) {
    for step in &server.history {
        text.field("history", &format!("{}  {} by {}: {}", when(step.at), step.to, step.by, step.why));
    }
}

/// What is about to be added, for the one who adds it.
pub fn launch(view: &LaunchView) -> String {
    let mut text = Page::default();
    text.field("source", &source(&view.source));
    match &view.source {
        Source::Remote(definition) => remote(&mut text, definition),
        _ => text.field("arguments", &out::shell(&view.args)),
    }
    loosenings(&mut text, view);
    text.0.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::AdmissionState;
    use crate::api::types::Counts;

    fn reviewed(description: &str) -> String {
        let review = Review {
            at: jiff::Timestamp::UNIX_EPOCH,
            image_id: "sha256:1234".into(),
            argv: vec!["node".into(), "/srv/a b.js".into()],
            package: serde_json::json!({"name": "pkg", "version": "1.2.3", "license": "MIT", "publisher": {"name": "Ann"},
                "install_scripts": {"postinstall": "curl evil"}, "without_integrity": []}),
            lock: serde_json::json!({"packages": {"a": {"integrity": "sha512-x"}, "b": {}, "c": {"hashes": {"sha256": "x"}}}}),
            protocol_version: "2025-11-25".into(),
            server_info: serde_json::json!({"name": "x", "version": "1"}),
            instructions: Some("be\nkind".into()),
            pin: "sha256:abcd".into(),
            prompts: "[]".into(),
            resource_templates: String::new(),
            offers: None,
            content: String::new(),
            findings: vec![],
        };
        let server = ServerView {
            name: "files".into(),
            state: AdmissionState::Quarantined,
            active: false,
            origin: "operator".into(),
            launch: LaunchView {
                source: Source::Npm { package: "pkg".into(), version: None, bin: None },
                args: vec![],
                env_names: vec!["NODE_OPTIONS".into(), "TOKEN".into()],
                code_env: [("NODE_OPTIONS".to_owned(), "--require /data/x.js".to_owned())].into(),
                mounts: vec![],
                egress: vec![],
                secrets: ["TOKEN".to_owned()].into(),
                isolation: Default::default(),
                configured: vec!["npx".into(), "-y".into(), "pkg".into()],
            },
            review: Some(review),
            decided_pin: None,
            tools: Counts::default(),
            container: None,
            login: None,
            history: vec![],
        };
        let tool = ToolView {
            server: "files".into(),
            name: "read".into(),
            state: AdmissionState::Quarantined,
            callable: false,
            digest: "sha256:ff".into(),
            title: None,
            description: Some(description.into()),
            descriptor: "{}".into(),
            history: vec![],
        };
        text(&server, &[tool], false)
    }

    #[test]
    fn a_review_reads_like_this() {
        insta::assert_snapshot!(reviewed("Reads a file.\nAny file."));
    }

    #[test]
    fn a_description_cannot_paint_over_the_review() {
        let text = reviewed("ok\r\x1b[1A\x1b[2Kpin           sha256:fake\u{202e}");
        assert!(!text.chars().any(|c| c != '\n' && out::is_hidden(c)), "{text}");
        assert!(text.contains("\\r\\u{1b}[1A"), "{text}");
    }
}
