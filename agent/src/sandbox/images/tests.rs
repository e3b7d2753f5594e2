//! Packages and foreign images on a real Docker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::is_version;
use crate::admission::{LaunchDefinition, Source};
use crate::config::SandboxConfig;
use crate::sandbox::builder::{Builder, Script};
use crate::sandbox::tests::on_docker;
use crate::sandbox::{BuiltImage, Sandbox, SandboxError};

fn launch(source: Source) -> LaunchDefinition {
    serde_json::from_value(json!({ "source": source, "configured": [] })).unwrap()
}

fn quiet(_step: &str) {}

/// Built, built again from its lock, and refused where a file of the lock or the outcome is another.
async fn is_built_again_from_its_lock(sandbox: &Sandbox, launch: LaunchDefinition, lock_file: &str, version: &str) {
    let first = sandbox.build(&launch, "s", &quiet).await.unwrap();
    assert!(first.lock["built"].as_str().unwrap().starts_with("sha256:"), "{}", first.lock);
    assert_eq!(first.package["version"], version);
    let again = sandbox.rebuild(&launch, "s", &first, &quiet).await.unwrap();
    assert_ne!(again.image_id, first.image_id);
    assert_eq!((&again.lock, &again.argv, &again.package), (&first.lock, &first.argv, &first.package));
    let anew = sandbox.build(&launch, "s", &quiet).await.unwrap();
    assert_eq!(anew.lock, first.lock, "two builds of the same versions are the same in every byte");

    let changed = |change: &dyn Fn(&mut Value)| {
        let mut before = first.clone();
        change(&mut before.lock);
        before
    };
    let refused =
        async |before: BuiltImage| sandbox.rebuild(&launch, "s", &before, &quiet).await.unwrap_err().to_string();
    let other = refused(changed(&|lock| lock["built"] = json!(format!("sha256:{}", "0".repeat(64))))).await;
    assert!(other.contains("not what was reviewed") && other.contains("--update"), "{other}");
    // The package manager itself refuses a file that does not have the digest of the lock.
    let forged = refused(changed(&|lock| {
        let text = lock["files"][lock_file].as_str().unwrap().to_owned();
        let start = ["sha512-", "sha256:"].iter().find_map(|start| Some(text.find(start)? + start.len())).unwrap();
        let forged = if text[start..].starts_with('0') { "1" } else { "0" };
        lock["files"][lock_file] = json!(format!("{}{forged}{}", &text[..start], &text[start + 1..]));
    }))
    .await;
    assert!(forged.contains("failed"), "{forged}");
    let none = refused(changed(&|lock| drop(lock.as_object_mut().unwrap().remove("files")))).await;
    assert!(none.contains("no lock file"), "{none}");
}

#[tokio::test]
async fn an_npm_package_is_built_again_byte_for_byte_from_its_lock() {
    on_docker(
        "an_npm_package_is_built_again_byte_for_byte_from_its_lock",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let source = Source::Npm { package: "semver".into(), version: Some("7.6.3".into()), bin: None };
            is_built_again_from_its_lock(&sandbox, launch(source), "package-lock.json", "7.6.3").await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_pypi_project_is_built_again_byte_for_byte_from_its_lock() {
    on_docker(
        "a_pypi_project_is_built_again_byte_for_byte_from_its_lock",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let source = Source::Pypi {
                package: "tabulate".into(),
                version: Some("0.9.0".into()),
                script: None,
                module: None,
                with: Vec::new(),
            };
            is_built_again_from_its_lock(&sandbox, launch(source), "requirements.txt", "0.9.0").await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_directory_has_another_digest_as_soon_as_a_byte_of_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("server.py", "print(1)");
    let digest = async || super::source_digest(dir.path()).await.unwrap();
    let first = digest().await;
    assert_eq!(first, digest().await);
    write("server.py", "print(2)");
    let second = digest().await;
    write("more.py", "");
    assert!(first != second && second != digest().await);
    assert!(super::source_digest(&dir.path().join("none")).await.is_err());
}

/// A registry with one image, which writes down what it was asked for.
struct Registry {
    port: u16,
    manifest: String,
    asked: Arc<Mutex<Vec<String>>>,
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Registry {
    async fn start() -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = super::header(tar::EntryType::Regular, 0o755, 3);
        tar.append_data(&mut header, "server", &b"hi\n"[..]).unwrap();
        let layer = tar.into_inner().unwrap();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [sha256(&layer)] },
            "config": { "Entrypoint": ["/server"], "Cmd": ["--stdio"], "Labels": {
                "org.opencontainers.image.licenses": "MIT --privileged -v /:/host",
                "io.docker.server.metadata": "{\"command\":[\"sh\"],\"volumes\":[\"/:/host\"],\"allowHosts\":[\"*:443\"]}",
                "lazaret.instance": "another", "lazaret.purpose": "serve" } },
        })
        .to_string()
        .into_bytes();
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": sha256(&config) },
            "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": layer.len(), "digest": sha256(&layer) }],
        })
        .to_string()
        .into_bytes();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry =
            Self { port: listener.local_addr().unwrap().port(), manifest: sha256(&manifest), asked: Arc::default() };
        let blobs: BTreeMap<String, Vec<u8>> = [&config, &layer].map(|blob| (sha256(blob), blob.clone())).into();
        let asked = registry.asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (blobs, manifest, asked) = (blobs.clone(), manifest.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    loop {
                        let mut first = String::new();
                        if stream.read_line(&mut first).await.unwrap_or(0) == 0 {
                            return;
                        }
                        let mut line = String::new();
                        while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                            line.clear();
                        }
                        let (method, path) = first.split_once(' ').unwrap_or_default();
                        let path = path.split(' ').next().unwrap_or_default().to_owned();
                        asked.lock().unwrap().push(path.clone());
                        let last = path.rsplit('/').next().unwrap_or_default();
                        // Whatever manifest is asked for, it gives out the only one that it has.
                        let (status, content, body) = match blobs.get(last) {
                            _ if path == "/v2/" => ("200 OK", "application/json", b"{}".to_vec()),
                            _ if path.contains("/manifests/") => ("200 OK", kind, manifest.clone()),
                            Some(blob) => ("200 OK", "application/octet-stream", blob.clone()),
                            None => ("404 Not Found", "application/json", b"{}".to_vec()),
                        };
                        let head = format!(
                            "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\n\r\n",
                            body.len(),
                            if path.contains("/manifests/") { last } else { "" }
                        );
                        let body = if method == "HEAD" { Vec::new() } else { body };
                        if stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        registry
    }

    fn image(&self, digest: &str) -> Source {
        Source::Image { image: format!("127.0.0.1:{}/mcp/time{digest}", self.port), run: Vec::new() }
    }
}

#[tokio::test]
async fn an_image_is_pulled_by_its_digest_and_by_nothing_else() {
    on_docker(
        "an_image_is_pulled_by_its_digest_and_by_nothing_else",
        SandboxConfig::default(),
        async |sandbox: Arc<Sandbox>| {
            let registry = Registry::start().await;
            for tag in ["", ":latest", "@sha256:12"] {
                let refused = sandbox.build(&launch(registry.image(tag)), "s", &quiet).await.unwrap_err();
                assert!(!matches!(refused, SandboxError::Build { .. }), "{refused}");
            }
            assert_eq!(*registry.asked.lock().unwrap(), [""; 0], "nobody asked a registry for a tag");

            let other = format!("@sha256:{}", "1".repeat(64));
            let forged = sandbox.build(&launch(registry.image(&other)), "s", &quiet).await.unwrap_err();
            assert!(matches!(forged, SandboxError::Docker { .. }), "{forged}");

            let steps = Mutex::new(Vec::new());
            let step = |text: &str| steps.lock().unwrap().push(text.to_owned());
            let wanted = launch(registry.image(&format!("@{}", registry.manifest)));
            let built = sandbox.build(&wanted, "s", &step).await.unwrap();
            assert!(steps.lock().unwrap().iter().any(|step| step.starts_with("pulling 127.0.0.1")));
            let again = sandbox.build(&wanted, "s", &quiet).await.unwrap();
            sandbox.remove_image(&built.image_id).await.unwrap();
            assert_eq!((&again.image_id, &again.lock), (&built.image_id, &built.lock));
            assert_eq!(built.argv, ["/server", "--stdio"], "labels decide nothing");
            assert_eq!(built.package["license"], "MIT --privileged -v /:/host");
            assert!(built.lock["digests"][0].as_str().unwrap().ends_with(&registry.manifest), "{}", built.lock);
        },
    )
    .await;
}

#[test]
fn a_version_cannot_smuggle_in_another_source() {
    for good in ["1.2.3", "latest", "^1.0", ">=1,<2", "1.0.0-rc.1+build", "1.x || 2.x", "~=1.4"] {
        assert!(is_version(good), "{good}");
    }
    for bad in ["", "--registry", "git+https://x", "npm:evil@1", "file:../x", "1 @ http://x", "1;x", "$(x)", "1\n2"] {
        assert!(!is_version(bad), "{bad}");
    }
}

#[tokio::test]
async fn what_was_downloaded_is_installed_where_there_is_no_network() {
    let test = "what_was_downloaded_is_installed_where_there_is_no_network";
    on_docker(test, SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let interfaces = "ls /sys/class/net";
        let script = Script {
            fetch: format!("echo \"$1\" > /app/kept; {interfaces} > /app/.build/before\n"),
            install: format!("{{ cat /app/kept /app/.build/before; echo; {interfaces}; }} >&3\n"),
        };
        let mut builder = Builder::create(&sandbox, "s", Some(script), &["a word"]).await.unwrap();
        let said = String::from_utf8(builder.run("look", "unused").await.unwrap()).unwrap();
        let (before, after) = said.split_once("\n\n").unwrap();
        assert!(before.starts_with("a word\n") && before.lines().count() > 2, "{said}");
        assert_eq!(after.trim(), "lo", "{said}");
        builder.commit(&["true".to_owned()]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_network_that_fails_once_is_asked_once_more_and_a_package_that_is_wrong_is_not() {
    let test = "a_network_that_fails_once_is_asked_once_more_and_a_package_that_is_wrong_is_not";
    on_docker(test, SandboxConfig::default(), async |sandbox: Arc<Sandbox>| {
        let failing = |why: &str| Script {
            fetch: format!(
                "echo x >> /app/tries; [ $(wc -l < /app/tries) -gt 1 ] || {{ echo '{why}' >&2; exit 1; }}\n"
            ),
            install: "cat /app/tries >&3\n".into(),
        };
        let mut builder = Builder::create(&sandbox, "s", Some(failing("npm error code EAI_AGAIN")), &[]).await.unwrap();
        assert_eq!(builder.run("look", "unused").await.unwrap(), b"x\nx\n");
        builder.commit(&["true".to_owned()]).await.unwrap();
        let mut builder = Builder::create(&sandbox, "s", Some(failing("npm error code E404")), &[]).await.unwrap();
        let error = builder.run("look", "unused").await.unwrap_err().to_string();
        assert!(error.contains("E404"), "{error}");
    })
    .await;
}
