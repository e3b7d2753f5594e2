//! Images of a directory or a file of this host.

use std::path::Path;

use serde_json::{Value, json};

use super::{Progress, npm, parse, pypi};
use crate::sandbox::builder::{Builder, Script};
use crate::sandbox::tree::{self, Tree};
use crate::sandbox::{BuiltImage, Sandbox, SandboxError};

const HINT: &str = "check the dependencies that the source declares, and that containers reach their registry";
const SRC: &str = "/app/src";
/// `npm ci` keeps to the source's own lock file, or to the one that `npm install` makes.
const NPM_FETCH: &str = r#"
cd /app/src
if [ -f package-lock.json ]; then how=ci; else how=install; fi
npm "$how" --ignore-scripts --omit=dev --no-audit --no-fund --loglevel=error
"#;
const NPM_INSTALL: &str = r#"
cd /app/src
[ -d node_modules ] || npm ci --offline --ignore-scripts --omit=dev --no-audit --no-fund --loglevel=error
cat node_modules/.package-lock.json >&3
"#;

fn npm_script() -> Script {
    // Where a setting of the source's wants no lock file, what was unpacked stays.
    let fetch = format!("{NPM_FETCH}[ -f package-lock.json ] || exit 0\n{}", npm::FORGET);
    Script { fetch, install: NPM_INSTALL.into() }
}

pub(super) async fn build(
    sandbox: &Sandbox,
    server: &str,
    path: &Path,
    run: &[String],
    progress: Progress<'_>,
) -> Result<BuiltImage, SandboxError> {
    if run.is_empty() {
        let hint = "write one with {src} for where the copy lies, such as `python3 {src}/server.py`";
        return Err(SandboxError::definition(server, "it has no command to run", hint));
    }
    let unreadable =
        |cause: String| SandboxError::definition(server, cause, "correct the path or the directory and try again");
    let tree = Tree::scan(path).map_err(&unreadable)?;
    progress(&format!("copying {} ({} files, {} KiB) into an image", path.display(), tree.files(), tree.bytes() >> 10));
    let needs = Needs::of(&tree, path).map_err(&unreadable)?;
    let (script, args) = match &needs {
        Needs::Nothing => (None, Vec::new()),
        Needs::Npm => (Some(npm_script()), Vec::new()),
        Needs::Python(args) => (Some(pypi::any()), args.iter().map(String::as_str).collect()),
    };
    let mut builder = Builder::create(sandbox, server, script, &args).await?;
    let (body, digest) = tree::stream(tree);
    let uploaded = builder.upload(body).await;
    // The reader's own error says more than what Docker makes of a stream that broke off.
    let summary = digest.await.map_err(|_| unreadable("the copy was given up".into()))?.map_err(&unreadable)?;
    uploaded?;

    let mut argv: Vec<String> = run.iter().map(|arg| arg.replace("{src}", &place(path, &summary))).collect();
    let mut packages = Value::Null;
    match needs {
        Needs::Nothing => {}
        Needs::Npm => {
            progress("installing what package.json depends on, without install scripts");
            let report = parse(server, &builder.run("npm install", HINT).await?)?;
            packages = npm::locked(&report["packages"]).into();
        }
        Needs::Python(_) => {
            progress("installing what the source depends on, wheels only");
            let report = parse(server, &builder.run("pip install", HINT).await?)?;
            packages = pypi::locked(&report).into();
            if let Some(program) = argv.first_mut().filter(|p| ["python", "python3"].contains(&p.as_str())) {
                *program = pypi::PYTHON.into();
            }
        }
    }
    let image_id = builder.commit(&argv).await?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(BuiltImage {
        image_id,
        argv,
        package: json!({ "kind": "local", "name": name, "path": path, "files": summary.files, "bytes": summary.bytes }),
        lock: json!({ "kind": "local", "tree": summary.digest, "packages": packages }),
    })
}

fn place(path: &Path, summary: &tree::Summary) -> String {
    match path.file_name() {
        Some(name) if summary.single_file => format!("{SRC}/{}", name.to_string_lossy()),
        _ => SRC.into(),
    }
}

/// What has to be installed beside the source.
#[derive(Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Npm,
    /// Arguments for pip.
    Python(Vec<String>),
}

impl Needs {
    fn of(tree: &Tree, path: &Path) -> Result<Self, String> {
        if tree.is_file() {
            // Only Python has a way to declare dependencies in the file itself.
            let python = path.extension().is_some_and(|extension| extension == "py");
            let wanted = if python { inline_dependencies(&tree.read_file()?)? } else { Vec::new() };
            return Ok(if wanted.is_empty() { Needs::Nothing } else { Needs::Python(wanted) });
        }
        if tree.has("requirements.txt") {
            return Ok(Needs::Python(vec!["-r".into(), format!("{SRC}/requirements.txt")]));
        }
        if tree.has("pyproject.toml") {
            let wanted = python_dependencies(&tree.read(path, "pyproject.toml")?)?;
            if !wanted.is_empty() {
                return Ok(Needs::Python(wanted));
            }
        }
        if tree.has("package.json") && !tree.has("node_modules") {
            let text = tree.read(path, "package.json")?;
            let manifest: Value =
                serde_json::from_str(&text).map_err(|e| format!("its package.json is no JSON: {e}"))?;
            if manifest["dependencies"].as_object().is_some_and(|wanted| !wanted.is_empty()) {
                return Ok(Needs::Npm);
            }
        }
        Ok(Needs::Nothing)
    }
}

fn python_dependencies(text: &str) -> Result<Vec<String>, String> {
    let project: toml::Table =
        text.parse().map_err(|e: toml::de::Error| format!("its pyproject.toml is no TOML: {}", e.message()))?;
    dependencies(project.get("project"))
}

/// The block that PEP 723 defines: `# /// script`, TOML behind `# `, `# ///`.
fn inline_dependencies(text: &str) -> Result<Vec<String>, String> {
    let block = text.lines().skip_while(|line| line.trim_end() != "# /// script").skip(1);
    let block = block.take_while(|line| line.starts_with('#') && line.trim_end() != "# ///");
    let lines: Vec<&str> = block.map(|line| line.strip_prefix("# ").unwrap_or_default()).collect();
    let metadata: toml::Table = lines
        .join("\n")
        .parse()
        .map_err(|e: toml::de::Error| format!("its inline metadata is no TOML: {}", e.message()))?;
    dependencies(Some(&toml::Value::Table(metadata)))
}

fn dependencies(declared: Option<&toml::Value>) -> Result<Vec<String>, String> {
    let listed = declared.and_then(|table| table.get("dependencies")).and_then(|list| list.as_array());
    let wanted: Vec<String> =
        listed.into_iter().flatten().filter_map(|d| Some(d.as_str()?.trim().to_owned())).collect();
    // pip would take it for an option.
    match wanted.iter().find(|dependency| !dependency.starts_with(|c: char| c.is_ascii_alphanumeric())) {
        Some(bad) => Err(format!("it depends on {bad:?}, which is no project's name")),
        None => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(files: &[(&str, &str)]) -> Result<Needs, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        Needs::of(&Tree::scan(dir.path()).unwrap(), dir.path())
    }

    #[test]
    fn dependencies_are_found_where_the_source_declares_them() {
        assert_eq!(needs(&[("a.py", "")]).unwrap(), Needs::Nothing);
        assert_eq!(needs(&[("package.json", r#"{"dependencies":{"x":"1"}}"#)]).unwrap(), Needs::Npm);
        assert_eq!(needs(&[("package.json", r#"{"devDependencies":{"x":"1"}}"#)]).unwrap(), Needs::Nothing);
        let project = "[project]\nname = \"x\"\ndependencies = [\"mcp>=1\"]\n";
        assert_eq!(needs(&[("pyproject.toml", project)]).unwrap(), Needs::Python(vec!["mcp>=1".into()]));
        assert!(matches!(needs(&[("requirements.txt", "mcp"), ("package.json", "{")]).unwrap(), Needs::Python(_)));
    }

    #[test]
    fn a_single_script_may_declare_its_own_dependencies() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.py");
        let needs = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Needs::of(&Tree::scan(&file).unwrap(), &file)
        };
        let script =
            "#!/usr/bin/env python3\n# /// script\n# dependencies = [\n#   \"mcp>=1\",\n# ]\n#\n# ///\nimport mcp\n";
        assert_eq!(needs(script).unwrap(), Needs::Python(vec!["mcp>=1".into()]));
        assert_eq!(needs("import sys\n# /// other\n").unwrap(), Needs::Nothing);
        assert!(needs("# /// script\n# = 1\n# ///\n").unwrap_err().contains("no TOML"));
    }

    #[test]
    fn a_dependency_cannot_be_an_option_of_pip() {
        let project = "[project]\ndependencies = [\"--index-url=http://evil\"]\n";
        assert!(needs(&[("pyproject.toml", project)]).unwrap_err().contains("no project's name"));
        assert!(needs(&[("package.json", "{")]).unwrap_err().contains("no JSON"));
        assert!(needs(&[("pyproject.toml", "= 1")]).unwrap_err().contains("no TOML"));
    }
}
