//! Launcher grammars as the kernel walks them: states, words and package names.

use crate::plain_struct;

pub const NAME: usize = 40;
/// Bytes of a package name that take part in a match.
pub const PACKAGE: usize = 63;

/// A word by its basename, in [`StepKey::kind`].
pub const WORD: u8 = 0;
/// A flag, up to a `=`.
pub const FLAG: u8 = 1;

plain_struct! {
    /// Key of the map `STEPS`: what a word or flag means in a state.
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct StepKey {
        pub state: u8,
        pub kind: u8,
        /// Padded with zeros; longer names do not match.
        pub name: [u8; NAME],
    }
}

/// The first state: the name of the program itself.
pub const START: u8 = 0;

/// Go on in state `next`.
pub const ENTER: u8 = 1;
/// The flag's value is the next token (or behind `=`): skip it.
pub const SKIP_VALUE: u8 = 2;
/// The flag's value names a package: match it as `next` says, and go on.
pub const TRY_VALUE: u8 = 3;
/// Not a server, whatever follows.
pub const STOP: u8 = 4;
/// It is a server.
pub const SERVER: u8 = 5;
/// It is an MCP client.
pub const CLIENT: u8 = 6;
/// What a state with [`NEEDS_NOTE`] waits for.
pub const NOTE: u8 = 7;

plain_struct! {
    #[derive(Debug, PartialEq, Eq)]
    pub struct Step {
        pub action: u8,
        pub next: u8,
    }
}

plain_struct! {
    /// Value of the array `STATES`: what a positional means that no step names.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct State {
        /// Namespace of the name, 0: the positional ends the walk.
        pub namespace: u8,
        /// [`PATH`], [`MODULE`], [`CLUSTER`], [`NEEDS_NOTE`].
        pub flags: u8,
    }
}

/// The name is a path: the package behind the last `node_modules/`, else the basename of a script
/// without an extension, else, for an entry file, the project's directory.
pub const PATH: u8 = 1;
/// The name is a Python module: its first component.
pub const MODULE: u8 = 2;
/// Short flags may be written together, and with their value.
pub const CLUSTER: u8 = 4;
/// Without a flag with [`NOTE`] nothing is a server.
pub const NEEDS_NOTE: u8 = 8;

pub const STATES: usize = 64;
/// What the word behind the package is looked up in.
pub const TOLD: u8 = STATES as u8 - 1;
/// Entry files of projects, and directories that builds put them into.
pub const ENTRY_FILES: u8 = STATES as u8 - 2;
pub const BUILD_DIRS: u8 = STATES as u8 - 3;
/// Files of a package that its installation runs.
pub const NO_ENTRY: u8 = STATES as u8 - 4;

pub const NPM: u8 = 1;
pub const PYPI: u8 = 2;
pub const IMAGE: u8 = 3;
/// Basename of a program that is run itself, of a script, or a Python module.
pub const PROGRAM: u8 = 4;
pub const GO: u8 = 5;
pub const JAR: u8 = 6;
pub const JBANG: u8 = 7;
pub const NUGET: u8 = 8;
/// Directory of a project whose entry file is run.
pub const DIRECTORY: u8 = 9;
/// Added to the namespace for names that are written backwards: suffixes.
pub const BACKWARDS: u8 = 0x80;

plain_struct! {
    /// Key of the longest-prefix map `PACKAGES`, behind the prefix length in bits.
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct PackageKey {
        pub namespace: u8,
        pub name: [u8; PACKAGE + 1],
    }
}

plain_struct! {
    #[derive(Debug, PartialEq, Eq)]
    pub struct Package {
        /// [`SERVER`], [`CLIENT`] or [`STOP`].
        pub verdict: u8,
        /// Bytes of the pattern, the NUL of an exact name included.
        pub length: u8,
    }
}

/// Most tokens that are looked at.
pub const TOKENS: u32 = 256;
pub const MAX_STEPS: u32 = 2048;
pub const MAX_PACKAGES: u32 = 4096;
