//! `/v1/inventory`: every MCP server that anybody on this host can reach.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use crate::admission::clients::{ClientFile, ClientServer};
use crate::admission::{LaunchDefinition, Server, Source, launch};
use crate::api::server::{Answer, Api, blocking};
use crate::api::types::InventoryEntry;
use crate::kernel::shadow::ShadowSpawn;

const IN_THE_CAGE: &str = "its cage: no network";
const REMOTE_UPDATES: &str = "by whoever runs it, at any time; what it lists is compared with the pin";
const REMOTE_TOUCHES: &str = "what its operator can, and what its calls tell it; nothing of this host";
const CONNECTOR: &str = "what the door lets its agent call";

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/inventory", get(inventory))
}

async fn inventory(State(api): State<Arc<Api>>) -> Answer<Vec<InventoryEntry>> {
    blocking(&api, |app| {
        let servers = app.admission.list()?;
        let shadows = app.shadows.list()?;
        let scan = app.clients.rescan();
        let mut entries = Vec::new();
        for file in &scan.files {
            entries.extend(file.servers.iter().map(|server| configured(file, server, &servers, &shadows)));
        }
        entries.extend(
            shadows.iter().filter(|shadow| shadow.config_source.is_none()).map(|shadow| seen(shadow, &servers)),
        );
        entries.extend(servers.iter().map(of_the_house));
        Ok(entries)
    })
    .await
    .map(Json)
}

fn configured(file: &ClientFile, entry: &ClientServer, servers: &[Server], shadows: &[ShadowSpawn]) -> InventoryEntry {
    let argv = entry.argv().unwrap_or_default();
    // What cannot be read as a launch definition still is a server that can be reached.
    let launch = entry.launch(file.home.as_deref().unwrap_or(Path::new("/"))).and_then(Result::ok);
    let shadow = shadows.iter().find(|shadow| {
        shadow.config_source.as_ref().is_some_and(|source| source.path == file.path && source.name == entry.name)
    });
    let server = servers.iter().find(|server| {
        server.launch.configured == argv && !argv.is_empty()
            || entry.url.as_deref().is_some_and(|url| {
                let here = server.launch.remote().map(crate::admission::Remote::url);
                here.is_some() && here == url::Url::parse(url).ok().as_ref()
            })
            || shadow.is_some_and(|shadow| shadow.server.as_ref() == Some(&server.name))
    });
    InventoryEntry {
        name: entry.name.clone(),
        known_by: "config".into(),
        client: Some(file.client.to_string()),
        config: Some(file.path.clone()),
        project: entry.project.clone().or_else(|| file.project.clone()),
        publisher: launch.as_ref().and_then(|launch| publisher(&launch.source)),
        updates: match (&launch, entry.door) {
            (_, true) => "with Lazaret".into(),
            (Some(launch), _) => updates(&launch.source),
            (None, _) => "unknown".into(),
        },
        touches: match (entry.door, &entry.url) {
            (true, _) => CONNECTOR.into(),
            (false, Some(_)) => "what its operator can, and what the client tells it".into(),
            (false, None) => "all that the client's user can, the network included".into(),
        },
        command: argv,
        url: entry.url.clone(),
        env_names: entry.env.keys().cloned().collect(),
        door: entry.door,
        disabled: entry.disabled,
        state: server.map(|server| server.state),
        server: server.map(|server| server.name.clone()),
        shadow: shadow.map(|shadow| shadow.id.clone()),
    }
}

/// Seen by the kernel, named by no config.
fn seen(shadow: &ShadowSpawn, servers: &[Server]) -> InventoryEntry {
    let launch = launch::from_argv(&shadow.argv, &Default::default(), &shadow.cwd).ok();
    let server = servers.iter().find(|server| shadow.server.as_ref() == Some(&server.name));
    InventoryEntry {
        name: launch.as_ref().map_or_else(|| shadow.id.clone(), launch::suggest_name),
        known_by: "kernel".into(),
        client: shadow.client.clone(),
        config: None,
        project: None,
        publisher: launch.as_ref().and_then(|launch| publisher(&launch.source)),
        updates: launch.map_or_else(|| "unknown".into(), |launch| updates(&launch.source)),
        touches: format!(
            "all that {} can, the network included",
            shadow.user.clone().unwrap_or_else(|| format!("uid {}", shadow.uid))
        ),
        command: shadow.argv.clone(),
        url: None,
        env_names: Vec::new(),
        door: false,
        disabled: false,
        state: server.map(|server| server.state),
        server: server.map(|server| server.name.clone()),
        shadow: Some(shadow.id.clone()),
    }
}

fn of_the_house(server: &Server) -> InventoryEntry {
    let LaunchDefinition { source, mounts, egress, env, configured, .. } = &server.launch;
    let reviewed = server.review.as_ref().and_then(|review| review.package["publisher"].as_str().map(str::to_owned));
    let seen: Vec<String> = mounts
        .iter()
        .map(|mount| format!("{}{}", mount.host.display(), if mount.writable { " (writable)" } else { "" }))
        .chain(egress.iter().map(ToString::to_string))
        .collect();
    InventoryEntry {
        name: server.name.clone(),
        known_by: "door".into(),
        client: None,
        config: None,
        project: None,
        command: configured.clone(),
        url: server.launch.remote().map(|remote| remote.url().to_string()),
        publisher: reviewed.or_else(|| publisher(source)),
        updates: match server.launch.remote() {
            Some(_) => REMOTE_UPDATES.into(),
            None if server.is_active() => "never: an image pinned by id".into(),
            None => "it does not run".into(),
        },
        touches: match server.launch.remote() {
            Some(_) => REMOTE_TOUCHES.into(),
            None if seen.is_empty() => IN_THE_CAGE.into(),
            None => format!("{IN_THE_CAGE}; {}", seen.join(", ")),
        },
        env_names: env.keys().cloned().collect(),
        door: true,
        disabled: false,
        server: Some(server.name.clone()),
        state: Some(server.state),
        shadow: server.origin.strip_prefix("shadow:").map(str::to_owned),
    }
}

/// The scope of an npm name belongs to its publisher; other names tell nobody.
fn publisher(source: &Source) -> Option<String> {
    match source {
        Source::Npm { package, .. } => {
            package.strip_prefix('@')?.split_once('/').map(|(scope, _)| format!("npm @{scope}"))
        }
        Source::Image { image, .. } => image.rsplit_once('/').map(|(owner, _)| owner.to_owned()),
        Source::Pypi { .. } => None,
        Source::Local { path, .. } => Some(format!("this host: {}", path.display())),
        Source::Remote(remote) => remote.url().host_str().map(str::to_owned),
    }
}

fn updates(source: &Source) -> String {
    match source {
        Source::Npm { version: Some(version), .. } | Source::Pypi { version: Some(version), .. } => {
            format!("asks for version {version}; its dependencies by themselves")
        }
        Source::Npm { .. } | Source::Pypi { .. } => "by itself: the newest version at a start".into(),
        Source::Local { path, .. } => format!("whoever may write {}", path.display()),
        Source::Image { image, .. } if image.contains("@sha256:") || image.starts_with("sha256:") => {
            "never: pinned by digest".into()
        }
        Source::Image { .. } => "when its tag is pulled".into(),
        Source::Remote(_) => REMOTE_UPDATES.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpinned_package_is_said_to_change_by_itself() {
        let npm = |version: Option<&str>| Source::Npm {
            package: "@acme/x".into(),
            version: version.map(str::to_owned),
            bin: None,
        };
        assert!(updates(&npm(None)).starts_with("by itself"));
        assert!(updates(&npm(Some("1.2.3"))).contains("version 1.2.3"));
        assert_eq!(publisher(&npm(None)).as_deref(), Some("npm @acme"));
    }
}
