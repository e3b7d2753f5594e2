//! Images of npm packages.

use serde_json::{Map, Value, json};

use super::{BUILT, Progress, files, is_version, locked_file, packed, parse, same};
use crate::sandbox::builder::{Builder, Script};
use crate::sandbox::{BuiltImage, Sandbox, SandboxError};

const HINT: &str = "check the package's name and version, and that containers reach the npm registry";
/// First the lock, unless there is one, then what it names: `npm ci` takes nothing that differs
/// from it, and leaves it in its cache. A lock that `npm ci` finds at odds with itself (npm makes such of some trees of
/// peers) is made whole by the same command again. `$1` is what to install, `$2` its name.
const FETCH: &str = r#"
how='--ignore-scripts --no-audit --no-fund --loglevel=error'
if [ -f package-lock.json ]; then
  npm ci $how
else
  npm install --package-lock-only --save-exact $how -- "$1"
  npm ci $how || { npm install --package-lock-only $how && npm ci $how; }
fi
"#;
/// Git's packages are in no cache that npm reads without a network: these stay as they were unpacked.
pub(super) const FORGET: &str = r#"
grep -q '"resolved": "git' package-lock.json || rm -rf node_modules
"#;
const INSTALL: &str = r#"
[ -d node_modules ] || npm ci --offline --ignore-scripts --no-audit --no-fund --loglevel=error
"#;
const REPORT: &str = r#"
node -e '
  const text = path => require("fs").readFileSync(path, "utf8");
  console.log(JSON.stringify({
    manifest: JSON.parse(text("/app/node_modules/" + process.argv[1] + "/package.json")),
    lock: JSON.parse(text("/app/package-lock.json")),
    files: {"package.json": text("/app/package.json"), "package-lock.json": text("/app/package-lock.json")},
    built: process.argv[2],
  }));
' "$2" "$built" >&3
"#;

fn script() -> Script {
    Script { fetch: [FETCH, FORGET].concat(), install: [INSTALL, BUILT, REPORT].concat() }
}

pub(super) async fn build(
    sandbox: &Sandbox,
    server: &str,
    package: &str,
    version: Option<&str>,
    bin: Option<&str>,
    progress: Progress<'_>,
) -> Result<BuiltImage, SandboxError> {
    if !is_name(package) {
        let hint = "name a package of the npm registry, such as @modelcontextprotocol/server-everything";
        return Err(SandboxError::definition(server, format!("{package:?} is not an npm package name"), hint));
    }
    if let Some(version) = version.filter(|v| !is_version(v)) {
        return Err(SandboxError::definition(
            server,
            format!("{version:?} is not an npm version"),
            "write one such as 1.2.3",
        ));
    }
    let wanted = format!("{package}@{}", version.unwrap_or("latest"));
    progress(&format!("installing {wanted} from npm, without its install scripts"));
    let mut builder = Builder::create(sandbox, server, Some(script()), &[&wanted, package]).await?;
    let report = parse(server, &builder.run(&format!("npm install {wanted}"), HINT).await?)?;
    let manifest = &report["manifest"];
    let path = bin_path(manifest, package, bin).map_err(|cause| {
        SandboxError::definition(server, cause, "name it as `lazaret server add NAME -- npx -p PACKAGE COMMAND`")
    })?;
    let argv = vec!["node".to_owned(), format!("/app/node_modules/{package}/{path}")];
    let lock = locked(&report["lock"]["packages"]);
    let package = described(manifest, &lock);
    progress(&format!("installed version {} with {} packages", text(manifest, "version"), lock.len()));
    let image_id = builder.commit(&argv).await?;
    let lock = json!({ "kind": "npm", "packages": lock, "built": report["built"], "files": report["files"] });
    Ok(BuiltImage { image_id, argv, package, lock })
}

/// The image of a lock; refused where its files do not have the digest `built`.
pub(super) async fn rebuild(
    sandbox: &Sandbox,
    server: &str,
    package: &str,
    lock: &Map<String, Value>,
    built: &str,
    argv: &[String],
) -> Result<String, SandboxError> {
    let mut builder = Builder::create(sandbox, server, Some(script()), &["", package]).await?;
    let kept = [
        ("app/package.json", locked_file(server, lock, "package.json")?),
        ("app/package-lock.json", locked_file(server, lock, "package-lock.json")?),
    ];
    builder.upload(files(kept).map_err(|e| packed(server, &e))?).await?;
    let report = parse(server, &builder.run("npm ci", HINT).await?)?;
    same(server, built, &report)?;
    builder.commit(argv).await
}

/// npm's rule for names, so that no option, path or address is taken for one.
pub(super) fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-', '_'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._~-".contains(c))
    };
    name.len() <= 214
        && match name.strip_prefix('@') {
            Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
            None => part(name),
        }
}

/// The file of the command to run, relative to the package. `bin` is a path, or a map of them.
fn bin_path(manifest: &Value, package: &str, wanted: Option<&str>) -> Result<String, String> {
    let unscoped = package.rsplit('/').next().unwrap_or(package);
    let bins: Vec<(&str, &str)> = match &manifest["bin"] {
        Value::String(path) => vec![(unscoped, path.as_str())],
        Value::Object(map) => map.iter().filter_map(|(name, path)| Some((name.as_str(), path.as_str()?))).collect(),
        _ => Vec::new(),
    };
    let names = || bins.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let named = |wanted: &str| bins.iter().find(|(name, _)| *name == wanted);
    let found = match (wanted, bins.as_slice()) {
        (_, []) => return Err(format!("{package} has no command to run")),
        (Some(wanted), _) => {
            named(wanted).ok_or_else(|| format!("{package} has no command {wanted:?}, only {}", names()))?
        }
        (None, [only]) => only,
        (None, [first, rest @ ..]) if rest.iter().all(|(_, path)| *path == first.1) => first,
        (None, _) => named(unscoped).ok_or_else(|| format!("{package} has several commands ({})", names()))?,
    };
    inside(found.1)
        .ok_or_else(|| format!("the command {:?} of {package} lies outside of the package ({:?})", found.0, found.1))
}

/// A path that stays below its root, written plainly.
fn inside(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part if part.contains(['\0', '\\']) => return None,
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The lock's entries by path, without the root, which is only the list of what was asked for.
pub(super) fn locked(packages: &Value) -> Map<String, Value> {
    let kept = ["version", "resolved", "integrity", "license", "hasInstallScript", "optional", "link"];
    let entries = packages.as_object().into_iter().flatten().filter(|(path, _)| !path.is_empty());
    entries
        .map(|(path, entry)| {
            let fields = kept.iter().filter_map(|key| Some(((*key).to_owned(), entry.get(key)?.clone())));
            (path.clone(), Value::Object(fields.collect()))
        })
        .collect()
}

/// What a reviewer wants to know of the package; the scripts were not run.
pub(super) fn described(manifest: &Value, lock: &Map<String, Value>) -> Value {
    let hooks = ["preinstall", "install", "postinstall"];
    let scripts: Map<String, Value> =
        hooks.iter().filter_map(|hook| Some(((*hook).to_owned(), manifest["scripts"].get(hook)?.clone()))).collect();
    let having = |test: &dyn Fn(&Value) -> bool| -> Vec<&String> {
        lock.iter().filter(|(_, entry)| test(entry)).map(|(path, _)| path).collect()
    };
    json!({
        "kind": "npm",
        "name": manifest["name"],
        "version": manifest["version"],
        "license": manifest["license"],
        "description": manifest["description"],
        "publisher": manifest["author"],
        "repository": manifest["repository"],
        "homepage": manifest["homepage"],
        "install_scripts": scripts,
        "install_scripts_of": having(&|entry| entry["hasInstallScript"] == true),
        "without_integrity": having(&|entry| entry.get("integrity").is_none() && entry["link"] != true),
    })
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("unknown")
}

#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(report: &Value) {
    for wanted in [None, Some("tool")] {
        if let Ok(path) = bin_path(&report["manifest"], "@s/tool", wanted) {
            assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0'), "{path:?}");
        }
    }
    let lock = locked(&report["lock"]["packages"]);
    let package = described(&report["manifest"], &lock);
    // Whatever runs code at its installation, or has no digest, is told.
    for (path, entry) in &lock {
        let told = |list: &str| package[list].as_array().is_some_and(|all| all.iter().any(|one| one == path.as_str()));
        assert!(entry["hasInstallScript"] != true || told("install_scripts_of"), "{path:?}");
        assert!(entry.get("integrity").is_some() || entry["link"] == true || told("without_integrity"), "{path:?}");
    }
    if let Some(name) = report["manifest"]["name"].as_str().filter(|name| is_name(name)) {
        assert!(!name.starts_with(['-', '.', '/']) && !name.contains([' ', ':', '\\', '#', '\n']), "{name:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registry_names_are_installed() {
        for good in ["@modelcontextprotocol/server-everything", "left-pad", "JSONStream", "a.b_c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "--global",
            "../x",
            "/etc",
            "git+ssh://x/y",
            "a/b",
            "@a",
            "@a/b/c",
            "@/b",
            "a@1",
            "file:x",
            "a b",
            ".x",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_command_is_the_only_one_or_the_one_named_like_the_package() {
        let bins = json!({"bin": {"other": "o.js", "tool": "./dist/tool.js"}});
        assert_eq!(bin_path(&bins, "@s/tool", None).unwrap(), "dist/tool.js");
        assert_eq!(bin_path(&bins, "@s/tool", Some("other")).unwrap(), "o.js");
        assert_eq!(bin_path(&json!({"bin": "x/../cli.js"}), "@s/tool", None).unwrap(), "cli.js");
        assert_eq!(bin_path(&json!({"bin": {"a": "i.js", "b": "i.js"}}), "tool", None).unwrap(), "i.js");
        assert!(bin_path(&bins, "third", None).unwrap_err().contains("several commands (other, tool)"));
        assert!(bin_path(&bins, "@s/tool", Some("none")).unwrap_err().contains("only other, tool"));
        assert!(bin_path(&json!({}), "tool", None).unwrap_err().contains("no command"));
    }

    proptest::proptest! {
        #[test]
        fn no_manifest_leads_out_of_its_package(path in "[a./\\\\]{0,12}") {
            if let Ok(found) = bin_path(&json!({"bin": path}), "p", None) {
                proptest::prop_assert!(!found.starts_with('/') && found.split('/').all(|part| part != ".." && !part.is_empty()));
            }
        }
    }
}
