//! What of a Python program is its own code: the modules beside its script, where Python looks first, or the package that
//! a console script or `-m` names.
//!
//! Invariant: neither the interpreter's library nor what the program depends on is part of it, as with Node; what Python
//! compiles for itself (`__pycache__`) is not either.

use std::path::{Path, PathBuf};

use super::files::{Files, Found};
use super::scripts::Script;

/// pip, pipx and uv write some ten lines.
const LONGEST_STUB: u64 = 4 << 10;
const MOST_LIBRARIES: usize = 64;

pub(super) fn is_python(exe: &str) -> bool {
    let name = exe.rsplit('/').next().unwrap_or_default();
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') == "python"
}

/// What comes with a script. Other programs of its `bin` directory do not.
pub(super) fn of_script(script: &Path, files: &Files<'_>) -> Vec<Script> {
    let Some(dir) = script.parent() else { return Vec::new() };
    let Some(prefix) = dir.parent().filter(|_| dir.ends_with("bin")) else {
        return vec![Script::Modules(dir.into())];
    };
    let text = files.head(script, LONGEST_STUB).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let libraries = libraries(prefix, files);
    imported(&text)
        .iter()
        .filter_map(|name| libraries.iter().find_map(|library| module(library, name, files)))
        .collect()
}

/// What `python -m NAME` runs, as far as its place can be told: the working directory, then the libraries of the
/// environment that `program` (as it was called, or as it is) lies in.
pub(super) fn of_module(name: &str, programs: &[&Path], cwd: &Path, files: &Files<'_>) -> Option<Script> {
    let top = name.split('.').next().filter(|top| is_name(top))?;
    let prefixes = programs.iter().filter_map(|program| program.parent()?.parent());
    let libraries = prefixes.flat_map(|prefix| libraries(prefix, files));
    std::iter::once(cwd.to_path_buf()).chain(libraries).find_map(|library| module(&library, top, files))
}

fn libraries(prefix: &Path, files: &Files<'_>) -> Vec<PathBuf> {
    let lib = prefix.join("lib");
    let versions = files.list(&lib, 4096).map(|listing| listing.names).unwrap_or_default();
    let versions = versions.into_iter().filter(|(name, _)| name.to_string_lossy().starts_with("python"));
    let both = |version: PathBuf| [version.join("site-packages"), version.join("dist-packages")];
    versions.take(MOST_LIBRARIES).flat_map(|(name, _)| both(lib.join(name))).collect()
}

fn module(library: &Path, name: &str, files: &Files<'_>) -> Option<Script> {
    let package = library.join(name);
    if files.list(&package, 1).is_some() {
        return Some(Script::Modules(package));
    }
    let file = library.join(format!("{name}.py"));
    matches!(files.measure(&file, None), Found::Measured(..)).then_some(Script::File(file))
}

/// The first parts of the names that a text imports.
fn imported(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("from" | "import")) {
            continue;
        }
        let name = words.next().unwrap_or_default().split(['.', ',']).next().unwrap_or_default();
        if is_name(name) && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::identity::measure::files::Digests;
    use crate::identity::measure::scripts::tree;

    fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_change_of_a_module_beside_a_script_is_a_change_of_the_program_and_a_compiled_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for below in ["lib/__pycache__", "data/deep", "__pycache__"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::write(root.join("main.py"), "import lib.helper").unwrap();
        fs::write(root.join("lib/__init__.py"), "").unwrap();
        fs::write(root.join("lib/helper.py"), "x = 1").unwrap();
        let digests = Digests::default();
        let files = Files::of(std::process::id(), own_uid(), &digests).unwrap();
        let measure = || {
            let scripts = of_script(&root.join("main.py"), &files);
            let [Script::Modules(found)] = scripts.as_slice() else { panic!("one directory") };
            assert_eq!(*found, root);
            tree(found, &files, true).digest
        };
        let before = measure();
        fs::write(root.join("data/deep/notes.py"), "no package").unwrap();
        fs::write(root.join("lib/__pycache__/helper.cpython-311.pyc"), "compiled").unwrap();
        fs::write(root.join("README.md"), "text").unwrap();
        assert_eq!(measure(), before);
        for (file, text) in [("lib/helper.py", "x = 2"), ("lib/new.py", ""), ("json.py", "shadows the library's")] {
            let before = measure();
            fs::write(root.join(file), text).unwrap();
            assert_ne!(measure(), before, "{file}");
        }
    }

    #[test]
    fn a_console_script_is_the_package_that_it_imports() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let site = root.join("lib/python3.11/site-packages");
        fs::create_dir_all(site.join("my_agent")).unwrap();
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(site.join("my_agent/cli.py"), "").unwrap();
        fs::write(site.join("other.py"), "").unwrap();
        let stub = "#!/x/bin/python\nimport re\nimport sys\nfrom my_agent.cli import main\nsys.exit(main())\n";
        fs::write(root.join("bin/agent"), stub).unwrap();
        let digests = Digests::default();
        let files = Files::of(std::process::id(), own_uid(), &digests).unwrap();
        let scripts = of_script(&root.join("bin/agent"), &files);
        assert!(matches!(scripts.as_slice(), [Script::Modules(found)] if *found == site.join("my_agent")));
        let python = root.join("bin/python3");
        let found = |name: &str| of_module(name, &[&python], &root, &files);
        assert!(matches!(found("my_agent.cli"), Some(Script::Modules(found)) if found == site.join("my_agent")));
        assert!(matches!(found("other"), Some(Script::File(found)) if found == site.join("other.py")));
        for name in ["http.server", "../x", "", "a b"] {
            assert!(found(name).is_none(), "{name}");
        }
    }
}
