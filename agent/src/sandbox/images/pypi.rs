//! Images of PyPI projects: wheels only, since installing from source runs the project's code.

use serde_json::{Map, Value, json};

use super::{BUILT, Progress, files, is_version, locked_file, packed, parse, same};
use crate::sandbox::builder::{Builder, Script};
use crate::sandbox::{BuiltImage, Sandbox, SandboxError};

const HINT: &str = "check the project's name and version; it needs a wheel for this Python, since building from source would run its code";
pub(super) const PYTHON: &str = "/app/venv/bin/python";
/// Downloads `"$@"` and all that it needs, and reports what that is.
const FETCH_ANY: &str = r#"
python3 -m venv --without-pip /app/.build/venv
pip() { python3 -m pip --python /app/.build/venv/bin/python "$@"; }
pip install --quiet --dry-run --only-binary=:all: --report /app/.build/report.json "$@"
pip download --quiet --only-binary=:all: --dest /app/.build/wheels "$@"
"#;
/// Installs what was downloaded into a fresh environment. The environment's own Python is not
/// started once packages are in it: a `.pth` file would run their code.
const INSTALL_ANY: &str = r#"
python3 -m venv --without-pip /app/venv
python3 -m pip --python /app/venv/bin/python install --quiet --no-index --no-deps --only-binary=:all: /app/.build/wheels/*.whl
python3 -I -S -c '
import json, sys
json.dump({"report": json.load(open("/app/.build/report.json"))}, sys.stdout)
' >&3
"#;

/// For sources that come with their own list.
pub(super) fn any() -> Script {
    Script { fetch: FETCH_ANY.into(), install: INSTALL_ANY.into() }
}

/// First the lock, unless there is one, then what it names and nothing else, each file by its digest.
const FETCH: &str = r#"
if [ ! -f /app/.build/requirements.txt ]; then
  python3 -m venv --without-pip /app/.build/venv
  python3 -m pip --python /app/.build/venv/bin/python install --quiet --dry-run --only-binary=:all: --report /app/.build/report.json "$@"
  python3 -I -S -c '
import json
lines = []
for item in json.load(open("/app/.build/report.json"))["install"]:
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    if not digest:
        raise SystemExit("the index names no sha256 of " + name + ", so that it cannot be pinned")
    lines.append(name + "==" + version + " --hash=sha256:" + digest + "\n")
open("/app/.build/requirements.txt", "w").writelines(sorted(lines))
'
fi
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --dest /app/.build/wheels -r /app/.build/requirements.txt
"#;
/// Compiled files say what they were compiled from, not when, so that equal packages make equal bytes.
const INSTALL: &str = r#"
python3 -m venv --without-pip /app/venv
export SOURCE_DATE_EPOCH=1 PYTHONHASHSEED=0
python3 -m pip --python /app/venv/bin/python install --quiet --no-index --find-links /app/.build/wheels --no-deps --require-hashes --only-binary=:all: -r /app/.build/requirements.txt
"#;
const REPORT: &str = r#"
python3 -I -S -c '
import glob, importlib.metadata, json, os, sys
site = glob.glob("/app/venv/lib/python3*/site-packages")
scripts = {}
for found in importlib.metadata.distributions(path=site):
    scripts[found.metadata["Name"]] = [e.name for e in found.entry_points if e.group == "console_scripts"]
report = "/app/.build/report.json"
json.dump({
    "report": json.load(open(report)) if os.path.exists(report) else {},
    "scripts": scripts,
    "bin": sorted(os.listdir("/app/venv/bin")),
    "files": {"requirements.txt": open("/app/.build/requirements.txt").read()},
    "built": sys.argv[1],
}, sys.stdout)
' "$built" >&3
"#;

fn script() -> Script {
    Script { fetch: FETCH.into(), install: [INSTALL, BUILT, REPORT].concat() }
}

/// How the definition says that the project is started.
pub(super) struct Entry<'a> {
    pub script: Option<&'a str>,
    pub module: Option<&'a str>,
}

pub(super) async fn build(
    sandbox: &Sandbox,
    server: &str,
    package: &str,
    version: Option<&str>,
    with: &[String],
    entry: &Entry<'_>,
    progress: Progress<'_>,
) -> Result<BuiltImage, SandboxError> {
    let wanted: Vec<String> = std::iter::once(requirement(package, version))
        .chain(with.iter().map(|spec| further(spec)))
        .collect::<Result<_, _>>()
        .map_err(|cause| SandboxError::definition(server, cause, "name a project of PyPI, such as mcp-server-time"))?;
    let shown = wanted.join(" ");
    progress(&format!("installing {shown} from PyPI, wheels only"));
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut builder = Builder::create(sandbox, server, Some(script()), &wanted).await?;
    let report = parse(server, &builder.run(&format!("pip install {shown}"), HINT).await?)?;
    let argv = command(&report, package, entry)
        .map_err(|cause| SandboxError::definition(server, cause, "name a script or a module in the definition"))?;
    let (package, lock) = (described(&report, package), locked(&report));
    progress(&format!(
        "installed version {} with {} packages",
        package["version"].as_str().unwrap_or("unknown"),
        lock.len()
    ));
    let image_id = builder.commit(&argv).await?;
    let lock = json!({ "kind": "pypi", "packages": lock, "built": report["built"], "files": report["files"] });
    Ok(BuiltImage { image_id, argv, package, lock })
}

/// The image of a lock; refused where its files do not have the digest `built`.
pub(super) async fn rebuild(
    sandbox: &Sandbox,
    server: &str,
    lock: &Map<String, Value>,
    built: &str,
    argv: &[String],
) -> Result<String, SandboxError> {
    let mut builder = Builder::create(sandbox, server, Some(script()), &[]).await?;
    let kept = [("app/.build/requirements.txt", locked_file(server, lock, "requirements.txt")?)];
    builder.upload(files(kept).map_err(|e| packed(server, &e))?).await?;
    let report = parse(server, &builder.run("pip install", HINT).await?)?;
    same(server, built, &report)?;
    builder.commit(argv).await
}

/// `name[extras]==version`; the version may be a range.
pub(super) fn requirement(package: &str, version: Option<&str>) -> Result<String, String> {
    let bare = bare_name(package);
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let extras = package[bare.len()..].strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let extras_hold =
        package.len() == bare.len() || extras.is_some_and(|list| list.split(',').all(|extra| word(extra.trim())));
    if !word(bare) || !extras_hold {
        return Err(format!("{package:?} is not the name of a PyPI project"));
    }
    match version {
        None | Some("latest") => Ok(package.into()),
        Some(version) if !is_version(version) => Err(format!("{version:?} is not a version")),
        Some(version) if version.starts_with(['<', '>', '=', '!', '~']) => Ok(format!("{package}{version}")),
        Some(version) => Ok(format!("{package}=={version}")),
    }
}

/// A requirement beside the project itself: the same, in one word.
fn further(spec: &str) -> Result<String, String> {
    let end = spec.find(['<', '>', '=', '!', '~']).unwrap_or(spec.len());
    let (package, version) = (spec[..end].trim(), spec[end..].trim());
    requirement(package, Some(version).filter(|version| !version.is_empty()))
}

fn bare_name(package: &str) -> &str {
    package.split('[').next().unwrap_or(package)
}

/// Names that PyPI holds for one.
fn same_name(a: &str, b: &str) -> bool {
    let plain = |name: &str| -> String {
        let parts: Vec<String> =
            name.split(['-', '_', '.']).filter(|part| !part.is_empty()).map(str::to_ascii_lowercase).collect();
        parts.join("-")
    };
    plain(a) == plain(b)
}

fn command(report: &Value, package: &str, entry: &Entry<'_>) -> Result<Vec<String>, String> {
    if let Some(module) = entry.module {
        let plain = !module.is_empty() && module.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        return plain
            .then(|| vec![PYTHON.into(), "-m".into(), module.into()])
            .ok_or_else(|| format!("{module:?} is not a module"));
    }
    let package = bare_name(package);
    let names = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let own: Vec<String> = report["scripts"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(project, _)| same_name(project, package))
        .flat_map(|(_, scripts)| names(scripts))
        .collect();
    let script = match entry.script {
        // A script may come from a dependency; it only has to be there.
        Some(script) if names(&report["bin"]).iter().any(|found| found == script) => script.to_owned(),
        Some(script) => return Err(format!("{package} installs no script {script:?}, only {}", listed(&own))),
        None => match (own.iter().find(|name| same_name(name, package)), own.as_slice()) {
            (Some(same), _) => same.clone(),
            (None, [only]) => only.clone(),
            (None, []) => return Err(format!("{package} has no command to run")),
            (None, _) => return Err(format!("{package} has several commands ({})", listed(&own))),
        },
    };
    if script.is_empty() || script.contains(['/', '\0']) || script.starts_with('.') {
        return Err(format!("{script:?} is not the name of a script"));
    }
    Ok(vec![format!("/app/venv/bin/{script}")])
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn installed(report: &Value) -> impl Iterator<Item = &Value> {
    report["report"]["install"].as_array().into_iter().flatten()
}

/// Every wheel by project name, with version, address and digests.
pub(super) fn locked(report: &Value) -> Map<String, Value> {
    let mut entries: Vec<(String, Value)> = installed(report)
        .map(|item| {
            let (meta, download) = (&item["metadata"], &item["download_info"]);
            let name = meta["name"].as_str().unwrap_or("unknown").to_owned();
            let hashes = match &download["archive_info"]["hashes"] {
                Value::Null => download["archive_info"]["hash"].clone(),
                hashes => hashes.clone(),
            };
            (name, json!({ "version": meta["version"], "url": download["url"], "hashes": hashes, "license": license(meta) }))
        })
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.into_iter().collect()
}

fn described(report: &Value, package: &str) -> Value {
    let own = installed(report)
        .find(|item| same_name(item["metadata"]["name"].as_str().unwrap_or_default(), bare_name(package)));
    let meta = own.map_or(&Value::Null, |item| &item["metadata"]);
    let publisher = [&meta["author"], &meta["author_email"], &meta["maintainer"], &meta["maintainer_email"]];
    json!({
        "kind": "pypi",
        "name": meta["name"],
        "version": meta["version"],
        "license": license(meta),
        "description": meta["summary"],
        "publisher": publisher.into_iter().find(|value| value.is_string()),
        "homepage": meta["home_page"],
        "project_urls": meta["project_url"],
    })
}

/// The licence by its short name: the old field may hold a whole text.
fn license(meta: &Value) -> Value {
    let short =
        |value: &Value| value.as_str().filter(|text| text.len() <= 80 && !text.contains('\n')).map(|text| json!(text));
    let classified = || {
        let classifiers = meta["classifier"].as_array()?;
        let found = classifiers.iter().find_map(|c| c.as_str()?.strip_prefix("License :: "))?;
        Some(json!(found.rsplit(" :: ").next().unwrap_or(found)))
    };
    short(&meta["license_expression"]).or_else(|| short(&meta["license"])).or_else(classified).unwrap_or(Value::Null)
}

#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(report: &Value) {
    for script in [None, Some("tool")] {
        if let Ok(argv) = command(report, "tool[x]", &Entry { script, module: None }) {
            let name = argv.first().and_then(|path| path.strip_prefix("/app/venv/bin/")).unwrap_or_default();
            assert!(argv.len() == 1 && !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.'));
        }
    }
    let lock = locked(report);
    assert!(lock.len() <= installed(report).count());
    let _ = described(report, "tool");
    if let Some(name) = report["name"].as_str()
        && let Ok(requirement) = further(name)
    {
        // One word for pip: no option, no address, no marker, no second line.
        assert!(!requirement.starts_with('-') && !requirement.contains(['/', '@', ';', '\n', '\r']), "{requirement:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_projects_are_installed() {
        assert_eq!(requirement("mcp-server-time", None).unwrap(), "mcp-server-time");
        assert_eq!(requirement("mcp[cli, ws]", Some("1.2.3")).unwrap(), "mcp[cli, ws]==1.2.3");
        assert_eq!(requirement("mcp", Some("<2")).unwrap(), "mcp<2");
        for bad in
            ["", "-r", "--index-url", "./x", "git+https://x", "a @ http://x", "a[", "a[]", "a]b", "a;b", "a b", "x/y"]
        {
            assert!(requirement(bad, None).is_err(), "{bad}");
        }
        assert!(requirement("a", Some("1 @ file:///x")).is_err());
        for good in ["mcp<2", "mcp>=1,<2", "mcp[cli]==1.2", "mcp"] {
            assert_eq!(further(good).unwrap(), good);
        }
        for bad in ["", "-r", "--index-url=x", "<2", "git+https://x", "a @ http://x", "a<2 @ file:///x", "a<2;b", "./x"]
        {
            assert!(further(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_script_is_the_one_named_like_the_project_or_the_only_one() {
        let report =
            |own: &[&str]| json!({"scripts": {"Mcp_Server.Time": own, "dep": ["dep"]}, "bin": ["dep", "python", "t"]});
        let run = |own: &[&str], script, module| command(&report(own), "mcp-server-time[x]", &Entry { script, module });
        assert_eq!(run(&["t"], None, None).unwrap(), ["/app/venv/bin/t"]);
        assert_eq!(run(&["t", "mcp-server-time"], None, None).unwrap(), ["/app/venv/bin/mcp-server-time"]);
        assert_eq!(run(&["t", "u"], Some("dep"), None).unwrap(), ["/app/venv/bin/dep"]);
        assert_eq!(run(&[], None, Some("a.b")).unwrap(), [PYTHON, "-m", "a.b"]);
        assert!(run(&["t", "u"], None, None).unwrap_err().contains("several commands (t, u)"));
        assert!(run(&[], None, None).unwrap_err().contains("no command"));
        assert!(run(&["../x"], None, None).is_err());
        assert!(run(&[], None, Some("a; import os")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_requirement_is_an_option_or_an_address(package in "[a@ :/;=.,<\\[\\]-]{0,10}", version in "[1<=@:/ -]{0,6}") {
            for wanted in [requirement(&package, Some(&version)), further(&format!("{package}{version}"))].into_iter().flatten() {
                proptest::prop_assert!(!wanted.starts_with('-') && !wanted.contains(['@', ':', '/', ';']), "{}", wanted);
            }
        }
    }
}
