//! From an entry of a client's config to a launch definition: what it starts, or where it is.
//!
//! Invariants: every value that the entry sets is kept as a secret, since nobody said that it is none; what a client
//! would fill in by itself is an error, never a guess; an entry widens nothing that the operator did not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{ClientFile, ClientServer, Scan};
use crate::admission::launch::LaunchError;
use crate::admission::loads_code;
use crate::admission::model::{LaunchDefinition, Source};
use crate::admission::remote::{OAuth, Remote, SecretHeader};

/// The transport sets those itself, whatever an entry says.
const OF_THE_TRANSPORT: [&str; 4] = ["accept", "accept-encoding", "connection", "content-type"];
/// Where a client fills something in: `${VAR}`, `{env:VAR}`, `{file:PATH}`, `$VAR`.
const VARIABLES: [&str; 3] = ["$", "{env:", "{file:"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntryError {
    #[error(
        "cannot find {0:?} in any client's config: `lazaret inventory` shows the entries; name one as ENTRY or CLIENT:ENTRY"
    )]
    Unknown(String),
    #[error("cannot tell which entry {wish:?} is: {places}; write one of them, PATH:ENTRY or PROJECT:ENTRY")]
    Ambiguous { wish: String, places: String },
    #[error("cannot make a server of {0}: it is the door itself")]
    Door(String),
    #[error("cannot make a server of {entry}: {source}")]
    Launch { entry: String, source: LaunchError },
    #[error("cannot make a server of {entry}: {why}")]
    Remote { entry: String, why: String },
    #[error(
        "cannot make a server of {entry}: its client fills in {what} by itself; add it by hand, `lazaret server add NAME --url {url}` with --header and --secret, or with --oauth"
    )]
    FilledIn { entry: String, what: String, url: String },
}

/// What the operator adds to what an entry says; an entry itself loosens nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leave {
    pub private: bool,
    pub plain_http: bool,
    pub oauth: Option<OAuth>,
}

impl ClientServer {
    /// What this entry would be as a server of the house. Relative paths start at the entry's own directory, its
    /// project, or `home`.
    pub fn definition(&self, home: &Path, leave: &Leave) -> Result<LaunchDefinition, EntryError> {
        let named = || format!("the entry {:?}", self.name);
        if self.door {
            return Err(EntryError::Door(named()));
        }
        match (self.launch(home), &self.url) {
            (Some(Ok(launch)), _) => Ok(all_secret(launch)),
            (Some(Err(source)), _) => Err(EntryError::Launch { entry: named(), source }),
            (None, Some(url)) => self.remote(url, leave),
            (None, None) => Err(EntryError::Launch { entry: named(), source: LaunchError::Empty }),
        }
    }

    fn remote(&self, url: &str, leave: &Leave) -> Result<LaunchDefinition, EntryError> {
        let entry = || format!("the entry {:?}", self.name);
        let shown = url.split(['?', '#']).next().unwrap_or_default().to_owned();
        let filled_in = |what: String| EntryError::FilledIn { entry: entry(), what, url: shown.clone() };
        let is_variable = |text: &str| VARIABLES.iter().any(|mark| text.contains(mark));
        if is_variable(url) {
            return Err(filled_in("its URL".into()));
        }
        let mut headers = Vec::new();
        let mut env = BTreeMap::new();
        for (name, value) in &self.headers {
            let name = name.to_ascii_lowercase();
            if OF_THE_TRANSPORT.contains(&name.as_str()) {
                continue;
            }
            if is_variable(value) {
                return Err(filled_in(format!("the header {name}")));
            }
            let (prefix, value) = scheme_and_secret(value);
            let secret: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            if env.insert(secret.clone(), value.to_owned()).is_some() {
                let why = format!("two of its headers would be kept as the secret {secret}; add it by hand with --url");
                return Err(EntryError::Remote { entry: entry(), why });
            }
            headers.push(SecretHeader { name, prefix: prefix.to_owned(), secret });
        }
        let remote = Remote::new(url, headers, leave.private, leave.plain_http, leave.oauth.clone())
            .map_err(|why| EntryError::Remote { entry: entry(), why })?;
        Ok(LaunchDefinition {
            configured: vec![remote.url().to_string()],
            source: Source::Remote(Box::new(remote)),
            args: Vec::new(),
            mounts: Vec::new(),
            egress: Vec::new(),
            secrets: env.keys().cloned().collect(),
            env,
            isolation: Default::default(),
        })
    }
}

/// Variables that decide which code runs are shown with their values, and are no secrets.
pub fn all_secret(mut launch: LaunchDefinition) -> LaunchDefinition {
    launch.secrets = launch.env.keys().filter(|name| !loads_code(name)).cloned().collect();
    launch
}

/// `Bearer TOKEN`: the scheme is for everybody to see.
fn scheme_and_secret(value: &str) -> (&str, &str) {
    match value.split_once(' ') {
        Some((scheme, secret))
            if ["bearer", "token", "basic"].contains(&scheme.to_ascii_lowercase().as_str()) && !secret.is_empty() =>
        {
            value.split_at(scheme.len() + 1)
        }
        _ => ("", value),
    }
}

/// The one entry that `wish` stands for: ENTRY, or CLIENT:ENTRY, PATH:ENTRY, PROJECT:ENTRY. Several that say the
/// same are one.
pub fn find<'a>(scan: &'a Scan, wish: &str) -> Result<(&'a ClientFile, &'a ClientServer), EntryError> {
    let all = || scan.files.iter().flat_map(|file| file.servers.iter().map(move |server| (file, server)));
    let of = |place: &str, name: &str| wish.strip_suffix(name).and_then(|rest| rest.strip_suffix(':')) == Some(place);
    let narrow = |(file, server): &(&ClientFile, &ClientServer)| {
        let project: Option<&PathBuf> = server.project.as_ref().or(file.project.as_ref());
        of(&file.client.to_string(), &server.name)
            || of(&file.path.to_string_lossy(), &server.name)
            || project.is_some_and(|project| of(&project.to_string_lossy(), &server.name))
    };
    let mut found: Vec<_> = all().filter(|(_, server)| server.name == wish).collect();
    if found.is_empty() {
        found = all().filter(narrow).collect();
    }
    let Some(first) = found.first().copied() else { return Err(EntryError::Unknown(wish.into())) };
    let says = |server: &ClientServer| {
        (server.argv(), server.env.clone(), server.url.clone(), server.headers.clone(), server.cwd.clone())
    };
    if found.iter().all(|(file, server)| says(server) == says(first.1) && file.home == first.0.home) {
        return Ok(first);
    }
    let place = |(file, server): &(&ClientFile, &ClientServer)| match &server.project {
        Some(project) => format!("{}:{} ({})", project.display(), server.name, file.client),
        None => format!("{}:{} ({})", file.path.display(), server.name, file.client),
    };
    let places: BTreeSet<String> = found.iter().map(place).collect();
    Err(EntryError::Ambiguous { wish: wish.into(), places: places.into_iter().collect::<Vec<_>>().join(", ") })
}

#[cfg(test)]
mod tests {
    use super::super::{Client, Format};
    use super::*;

    fn entries(text: &str) -> Vec<ClientServer> {
        Format::McpServers.parse(text).unwrap().servers
    }

    fn entry(text: &str) -> ClientServer {
        entries(&format!(r#"{{"mcpServers":{{"x":{text}}}}}"#)).remove(0)
    }

    fn define(text: &str, leave: &Leave) -> Result<LaunchDefinition, EntryError> {
        entry(text).definition(Path::new("/"), leave)
    }

    #[test]
    fn a_url_becomes_a_remote_server_whose_headers_are_secrets() {
        let text = r#"{"type":"http","url":"https://mcp.example.com/mcp",
            "headers":{"Authorization":"Bearer hunter2-x","X-Api-Key":"k 3","Accept":"*/*"}}"#;
        let launch = define(text, &Leave::default()).unwrap();
        let remote = launch.remote().unwrap();
        assert_eq!(remote.url().as_str(), "https://mcp.example.com/mcp");
        let shown: Vec<_> =
            remote.headers().iter().map(|h| (h.name.as_str(), h.prefix.as_str(), h.secret.as_str())).collect();
        assert_eq!(shown, [("authorization", "Bearer ", "AUTHORIZATION"), ("x-api-key", "", "X_API_KEY")]);
        assert_eq!((launch.env["AUTHORIZATION"].as_str(), launch.env["X_API_KEY"].as_str()), ("hunter2-x", "k 3"));
        assert_eq!(launch.secrets.len(), 2);
        let view = serde_json::to_string(&crate::api::types::LaunchView::from(&launch)).unwrap();
        assert!(!view.contains("hunter2") && !serde_json::to_string(&entry(text)).unwrap().contains("hunter2"));
    }

    #[test]
    fn an_entry_loosens_nothing_by_itself() {
        let own = r#"{"url":"http://127.0.0.1:3000/mcp"}"#;
        assert!(define(own, &Leave::default()).unwrap_err().to_string().contains("--plain-http"));
        let leave = Leave { private: true, plain_http: true, oauth: None };
        assert!(define(own, &leave).unwrap().remote().unwrap().private());
        for bad in [
            r#"{"url":"https://10.0.0.1/"}"#,
            r#"{"url":"https://u:p@a.example/"}"#,
            r#"{"url":"https://a.example/","headers":{"Host":"b"}}"#,
            r#"{"url":"https://a.example/","headers":{"Mcp-Session-Id":"b"}}"#,
            r#"{"url":"https://a.example/","headers":{"X-A":"1","X_A":"2"}}"#,
        ] {
            assert!(define(bad, &Leave::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_client_fills_in_is_no_guess() {
        for bad in [
            r#"{"url":"https://a.example/","headers":{"Authorization":"Bearer ${env:TOKEN}"}}"#,
            r#"{"url":"https://a.example/","headers":{"Authorization":"Bearer $TOKEN"}}"#,
            r#"{"url":"https://a.example/","headers":{"X-Key":"{file:/root/key}"}}"#,
            r#"{"url":"https://${HOST}/mcp"}"#,
        ] {
            let error = define(bad, &Leave::default()).unwrap_err();
            assert!(matches!(error, EntryError::FilledIn { .. }), "{bad}: {error}");
        }
        let codex = "[mcp_servers.x]\nurl = \"https://a.example/\"\nbearer_token_env_var = \"T\"";
        let server = Format::Codex.parse(codex).unwrap().servers.remove(0);
        let error = server.definition(Path::new("/"), &Leave::default()).unwrap_err().to_string();
        assert!(error.contains("the header authorization"), "{error}");
    }

    #[test]
    fn what_a_command_gets_is_secret_but_for_what_loads_code() {
        let text = r#"{"command":"npx","args":["-y","pkg"],"env":{"TOKEN":"t","NODE_OPTIONS":"--x"}}"#;
        let launch = define(text, &Leave::default()).unwrap();
        assert_eq!(launch.secrets, BTreeSet::from(["TOKEN".to_owned()]));
    }

    #[test]
    fn one_name_in_several_configs_is_narrowed_or_refused() {
        let file = |client, path: &str, text: &str| ClientFile {
            client,
            path: path.into(),
            home: Some("/h".into()),
            project: None,
            servers: entries(text),
            error: None,
        };
        let one = r#"{"mcpServers":{"x":{"url":"https://a.example/"},"only:one":{"url":"https://c.example/"}}}"#;
        let other = r#"{"mcpServers":{"x":{"url":"https://b.example/"}}}"#;
        let files = vec![file(Client::Cursor, "/h/.cursor/mcp.json", one), file(Client::Zed, "/h/zed.json", other)];
        let scan = Scan { files, ..Scan::default() };
        let url = |wish: &str| find(&scan, wish).map(|(_, server)| server.url.clone().unwrap());
        let refused = url("x").unwrap_err().to_string();
        assert!(refused.contains("/h/zed.json:x (zed)") && refused.contains("cursor"), "{refused}");
        assert_eq!(url("cursor:x").unwrap(), "https://a.example/");
        assert_eq!(url("/h/zed.json:x").unwrap(), "https://b.example/");
        assert_eq!(url("only:one").unwrap(), "https://c.example/");
        assert!(matches!(url("zed:only:one"), Err(EntryError::Unknown(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_value_of_a_header_is_shown(value in "[a-zA-Z0-9$ .{}-]{6,40}", name in "[A-Za-z-]{1,12}") {
            let mut server = entry(r#"{"url":"https://mcp.test/"}"#);
            server.headers.insert(name, value.clone());
            let secret = scheme_and_secret(&value).1.to_owned();
            let shown = match server.definition(Path::new("/"), &Leave::default()) {
                Ok(launch) => serde_json::to_string(&crate::api::types::LaunchView::from(&launch)).unwrap(),
                Err(error) => error.to_string(),
            };
            // What stands in every answer is no proof of anything.
            if secret.len() > 8 && secret.chars().any(|c| c.is_ascii_digit()) {
                proptest::prop_assert!(!shown.contains(&secret), "{}", shown);
            }
        }
    }
}
