//! The fuzz targets of `fuzz/fuzz_targets`, each run over its seeds without a fuzzer, so that neither rots.
//!
//! Invariant: every target is listed there and has seeds (`fuzz/seeds/TARGET`); an input that once broke a target is
//! among them.

#[path = "../../fuzz/fuzz_targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = fuzz_dir().join("seeds").join(target);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("no seeds in {}: {e}", dir.display()));
    files.map(|file| file.unwrap().path()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_fuzz_target_holds_for_its_seeds() {
    let mut broken = Vec::new();
    for (target, run) in targets::ALL {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "write a seed or two into fuzz/seeds/{target}");
        for (path, seed) in seeds {
            // Also cut in two, and with a byte too much: what a fuzzer tries first.
            let half = seed.len() / 2;
            let longer = [seed.as_slice(), b"\0"].concat();
            for input in [&seed, &seed[..half], &seed[half..], &longer] {
                if std::panic::catch_unwind(|| run(input)).is_err() {
                    broken.push(path.clone());
                }
            }
        }
    }
    assert!(broken.is_empty(), "these break their targets: {broken:#?}");
}

#[test]
fn every_fuzz_target_is_listed() {
    let names = |dir: &str| -> BTreeSet<String> {
        let files = std::fs::read_dir(fuzz_dir().join(dir)).unwrap();
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let listed: BTreeSet<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut files = names("fuzz_targets");
    files.remove("mod");
    assert_eq!(files, listed, "the list is in fuzz/fuzz_targets/mod.rs");
    assert_eq!(names("seeds"), listed);
}
