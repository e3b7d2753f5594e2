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
        /// A path: the package behind the last `node_modules/`, else the basename.
        pub path: u8,
    }
}

pub const STATES: usize = 64;

pub const NPM: u8 = 1;
pub const PYPI: u8 = 2;
pub const IMAGE: u8 = 3;
/// Basename of a program that is run itself.
pub const PROGRAM: u8 = 4;
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
        /// Bytes that matched; the longer pattern wins.
        pub length: u8,
    }
}

/// Most tokens that are looked at.
pub const TOKENS: u32 = 32;
pub const MAX_STEPS: u32 = 1024;
pub const MAX_PACKAGES: u32 = 4096;
