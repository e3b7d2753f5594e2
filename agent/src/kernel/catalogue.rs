//! Compiles `catalogue.toml` into what the kernel walks.
//!
//! The file is data: a new launcher or package needs no new code. Compiling checks what the kernel
//! cannot: names that are too long, states that do not exist, patterns that could never be looked up.

use std::collections::BTreeMap;

use aya::Ebpf;
use lazaret_common::catalogue::{
    BACKWARDS, BUILD_DIRS, CLIENT, CLUSTER, DIRECTORY, ENTER, ENTRY_FILES, FLAG, GO, IMAGE, JAR, JBANG, MODULE, NAME,
    NEEDS_NOTE, NO_ENTRY, NOTE, NPM, NUGET, PACKAGE, PATH, PROGRAM, PYPI, Package, PackageKey, SERVER, SKIP_VALUE,
    STOP, State, Step, StepKey, TOLD, TRY_VALUE, WORD,
};
use lazaret_common::settings::UNIX_PATH;
use serde::Deserialize;

use super::{KernelError, maps};

const FILE: &str = include_str!("catalogue.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: BTreeMap<String, StateText>,
    entry: EntryText,
    packages: BTreeMap<String, PackagesText>,
    inert: Inert,
    protected: Protected,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StateText {
    enter: BTreeMap<String, String>,
    skip: Vec<String>,
    r#try: BTreeMap<String, String>,
    stop: Vec<String>,
    note: Vec<String>,
    server: Vec<String>,
    client: Vec<String>,
    names: Option<String>,
    by: Option<String>,
    cluster: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryText {
    files: Vec<String>,
    dirs: Vec<String>,
    never: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PackagesText {
    server: Vec<String>,
    other: Vec<String>,
    client: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inert {
    programs: Vec<String>,
    #[serde(default)]
    rewriting: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected {
    sockets: Vec<String>,
}

/// What goes into the kernel's maps.
pub(super) struct Catalogue {
    pub(super) steps: Vec<(StepKey, Step)>,
    pub(super) states: Vec<State>,
    /// Key, bytes of it that count, value.
    pub(super) packages: Vec<(PackageKey, usize, Package)>,
    pub(super) inert: Vec<String>,
    pub(super) rewriting: Vec<String>,
    pub(super) protected: Vec<[u8; UNIX_PATH]>,
}

impl Catalogue {
    /// Fills the maps that the kernel walks.
    pub(super) fn write(&self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        let mut steps = maps::table::<{ size_of::<StepKey>() }, { size_of::<Step>() }>(ebpf, "STEPS")?;
        for (key, step) in &self.steps {
            steps.put(key, step)?;
        }
        for (index, state) in self.states.iter().enumerate() {
            maps::set_at::<{ size_of::<State>() }>(ebpf, "STATE_RULES", index as u32, state)?;
        }
        maps::packages(ebpf, &self.packages)
    }
}

pub(super) fn built_in() -> Result<Catalogue, KernelError> {
    compile(FILE).map_err(KernelError::Catalogue)
}

fn compile(text: &str) -> Result<Catalogue, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    // `start` is state 0, `told` has a number of its own; the others follow in the order of their names.
    let mut names: Vec<&str> =
        file.state.keys().map(String::as_str).filter(|n| !["start", "told"].contains(n)).collect();
    names.insert(0, "start");
    if names.len() > NO_ENTRY as usize {
        return Err(format!("{} states, at most {NO_ENTRY} fit", names.len()));
    }
    let number = |name: &str| match name {
        "told" => Ok(TOLD),
        _ => {
            names.iter().position(|n| *n == name).map(|n| n as u8).ok_or_else(|| format!("no state is named {name:?}"))
        }
    };
    let mut steps = Vec::new();
    let mut states = Vec::new();
    for name in names.iter().copied().chain(["told"]) {
        let text = file.state.get(name).ok_or_else(|| format!("the state {name:?} is missing"))?;
        let index = number(name)?;
        let mut put = |word: &str, action, next| -> Result<(), String> {
            steps.push((step_key(index, word)?, Step { action, next }));
            Ok(())
        };
        for (word, next) in &text.enter {
            put(word, ENTER, number(next)?)?;
        }
        for (flag, names) in &text.r#try {
            put(flag, TRY_VALUE, namespace(names)?)?;
        }
        let lists = [
            (&text.skip, SKIP_VALUE),
            (&text.stop, STOP),
            (&text.note, NOTE),
            (&text.server, SERVER),
            (&text.client, CLIENT),
        ];
        for (words, action) in lists {
            for word in words {
                put(word, action, 0)?;
            }
        }
        if index != TOLD {
            states.push(state(text)?);
        }
    }
    for (words, state) in
        [(&file.entry.files, ENTRY_FILES), (&file.entry.dirs, BUILD_DIRS), (&file.entry.never, NO_ENTRY)]
    {
        for word in words {
            steps.push((step_key(state, word)?, Step { action: SERVER, next: 0 }));
        }
    }
    Ok(Catalogue {
        steps,
        states,
        packages: packages(&file.packages)?,
        inert: file.inert.programs,
        rewriting: file.inert.rewriting,
        protected: file.protected.sockets.iter().map(|path| socket(path)).collect::<Result<_, _>>()?,
    })
}

fn state(text: &StateText) -> Result<State, String> {
    let by = match text.by.as_deref() {
        None => 0,
        Some("path") => PATH,
        Some("module") => MODULE,
        Some(other) => return Err(format!("a name is not found by {other:?}")),
    };
    let cluster = if text.cluster { CLUSTER } else { 0 };
    let note = if text.note.is_empty() { 0 } else { NEEDS_NOTE };
    let namespace = text.names.as_deref().map(namespace).transpose()?.unwrap_or(0);
    Ok(State { namespace, flags: by | cluster | note })
}

fn namespace(name: &str) -> Result<u8, String> {
    match name {
        "npm" => Ok(NPM),
        "pypi" => Ok(PYPI),
        "image" => Ok(IMAGE),
        "program" => Ok(PROGRAM),
        "go" => Ok(GO),
        "jar" => Ok(JAR),
        "jbang" => Ok(JBANG),
        "nuget" => Ok(NUGET),
        "directory" => Ok(DIRECTORY),
        _ => Err(format!("no namespace is named {name:?}")),
    }
}

fn step_key(state: u8, word: &str) -> Result<StepKey, String> {
    // One byte stays zero, so that a longer word that was cut never equals a name.
    if word.is_empty() || word.len() > NAME - 2 {
        return Err(format!("{word:?} must have 1 to {} bytes", NAME - 2));
    }
    let mut name = [0; NAME];
    name[..word.len()].copy_from_slice(word.as_bytes());
    Ok(StepKey { state, kind: if word.starts_with('-') { FLAG } else { WORD }, name })
}

fn packages(texts: &BTreeMap<String, PackagesText>) -> Result<Vec<(PackageKey, usize, Package)>, String> {
    let mut all = Vec::new();
    for (name, text) in texts {
        let namespace = namespace(name)?;
        for (patterns, verdict) in [(&text.server, SERVER), (&text.other, STOP), (&text.client, CLIENT)] {
            for pattern in patterns {
                if namespace == PROGRAM && verdict == SERVER && !pattern.contains("mcp") {
                    return Err(format!(
                        "the program pattern {pattern:?} must contain \"mcp\": others are not looked up"
                    ));
                }
                all.push(package(namespace, pattern, verdict)?);
            }
        }
    }
    Ok(all)
}

fn package(namespace: u8, pattern: &str, verdict: u8) -> Result<(PackageKey, usize, Package), String> {
    if pattern.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("{pattern:?} must be in lower case: names are compared in it"));
    }
    let (bytes, namespace): (Vec<u8>, u8) = if let Some(suffix) = pattern.strip_prefix('*') {
        (suffix.bytes().rev().collect(), namespace | BACKWARDS)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        (prefix.into(), namespace)
    } else {
        // The NUL behind it makes it match nothing longer.
        (pattern.bytes().chain([0]).collect(), namespace)
    };
    if bytes.is_empty() || bytes.len() > PACKAGE || bytes.contains(&b'*') {
        return Err(format!("{pattern:?} must have 1 to {} bytes and one * at most, at an end", PACKAGE - 1));
    }
    let mut name = [0; PACKAGE + 1];
    name[..bytes.len()].copy_from_slice(&bytes);
    let key = PackageKey { namespace, name };
    Ok((key, bytes.len(), Package { verdict, length: bytes.len() as u8 }))
}

fn socket(path: &str) -> Result<[u8; UNIX_PATH], String> {
    let mut padded = [0; UNIX_PATH];
    padded
        .get_mut(..path.len())
        .filter(|_| path.len() < UNIX_PATH)
        .ok_or_else(|| format!("the socket path {path:?} is too long"))?
        .copy_from_slice(path.as_bytes());
    Ok(padded)
}

#[cfg(test)]
mod launches;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_compiles() {
        let catalogue = built_in().unwrap();
        assert_eq!(catalogue.states[0].namespace, 0);
        assert!(catalogue.steps.len() <= lazaret_common::catalogue::MAX_STEPS as usize);
        let mut keys: Vec<_> = catalogue.steps.iter().map(|(key, _)| (key.state, key.kind, key.name)).collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count, "a word has two meanings in one state");
    }

    #[test]
    fn a_state_that_does_not_exist_is_an_error() {
        let text = "[state.start.enter]\nx = \"nowhere\"\n[state.told]\n[entry]\nfiles=[]\ndirs=[]\nnever=[]\n[packages]\n[inert]\nprograms=[]\n[protected]\nsockets=[]\n";
        assert_eq!(compile(text).err().unwrap(), "no state is named \"nowhere\"");
    }

    #[test]
    fn an_exact_name_ends_with_a_nul() {
        let (key, length, _) = package(NPM, "a/b", SERVER).unwrap();
        assert_eq!((&key.name[..4], length), (&b"a/b\0"[..], 4));
        let (key, length, _) = package(NPM, "*-mcp", SERVER).unwrap();
        assert_eq!((key.namespace, &key.name[..4], length), (NPM | BACKWARDS, &b"pcm-"[..], 4));
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_compiles_or_is_an_error(pattern in ".{0,80}") {
            let _ = package(NPM, &pattern, SERVER);
            let _ = step_key(1, &pattern);
        }
    }
}
