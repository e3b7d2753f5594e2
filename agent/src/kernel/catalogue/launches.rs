//! The kernel's own walker over many launches: the program `judge` is run by hand on each argv.

use aya::TestRun as _;
use aya::maps::Array;
use aya::programs::{RawTracePoint, RawTracePointRunOptions};
use lazaret_common::plain::Plain as _;
use lazaret_common::settings::{CATALOGUE, IS_CLIENT, Question};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::load::{self, Loaded};

const LAUNCHES: &str = include_str!("launches.txt");
const MAP: &str = "QUESTION";

/// The kernel programs with nothing but the catalogue in their maps.
struct Walker(Loaded);

impl Walker {
    /// `None`, said aloud, where this process may not load kernel programs.
    fn load() -> Option<Self> {
        let mut loaded = match load::load(None) {
            Ok(loaded) => loaded,
            Err(why) => {
                eprintln!("SKIPPED: the kernel's walker was not run: {why}");
                return None;
            }
        };
        super::built_in().unwrap().write(&mut loaded.ebpf).unwrap();
        program(&mut loaded).load().unwrap();
        Some(Self(loaded))
    }

    /// `S`, `C` or `O`, as in the table.
    fn judge(&mut self, argv: &[String]) -> char {
        let mut question = Question::read(&[0; size_of::<Question>()]).unwrap();
        let joined: Vec<u8> = argv.iter().flat_map(|word| word.bytes().chain([0])).collect();
        let length = joined.len().min(question.argv.len());
        question.argv[..length].copy_from_slice(&joined[..length]);
        (question.length, question.total) = (length as u32, joined.len() as u32);
        let mut map: Array<_, [u8; size_of::<Question>()]> =
            Array::try_from(self.0.ebpf.map_mut(MAP).unwrap()).unwrap();
        map.set(0, <[u8; size_of::<Question>()]>::try_from(question.bytes()).unwrap(), 0).unwrap();
        program(&mut self.0).test_run(RawTracePointRunOptions::default()).unwrap();
        let map: Array<_, [u8; size_of::<Question>()]> = Array::try_from(self.0.ebpf.map(MAP).unwrap()).unwrap();
        let answer = Question::read(&map.get(&0, 0).unwrap()).unwrap().answer;
        match answer {
            answer if answer & IS_CLIENT != 0 => 'C',
            answer if answer & 1 << CATALOGUE != 0 => 'S',
            _ => 'O',
        }
    }
}

fn program(loaded: &mut Loaded) -> &mut RawTracePoint {
    loaded.ebpf.program_mut("judge").unwrap().try_into().unwrap()
}

fn launches() -> impl Iterator<Item = (char, Vec<String>)> {
    LAUNCHES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (expected, argv) = line.split_once(' ').unwrap();
        (expected.chars().next().unwrap(), argv.split(' ').map(|word| word.replace("\\s", " ")).collect())
    })
}

#[test]
fn every_launch_of_a_server_is_recognised_and_nothing_else_is() {
    let Some(mut walker) = Walker::load() else { return };
    let wrong: Vec<String> = launches()
        .filter_map(|(expected, argv)| {
            let found = walker.judge(&argv);
            (found != expected).then(|| format!("{expected} expected, {found} found: {argv:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(launches().filter(|(expected, _)| *expected == 'S').count() > 100);
}

#[test]
fn a_directory_before_the_launcher_and_arguments_behind_the_package_change_nothing() {
    let Some(mut walker) = Walker::load() else { return };
    for (expected, mut argv) in launches() {
        argv[0] = format!("/opt/some/where/{}", argv[0].rsplit('/').next().unwrap());
        assert_eq!(walker.judge(&argv), expected, "{argv:?}");
        argv.push("--root=/srv/mcp-server-notes.txt".into());
        if expected == 'S' {
            assert_eq!(walker.judge(&argv), expected, "{argv:?}");
        }
    }
}

#[test]
fn no_argv_stops_the_walk_and_words_without_a_name_of_a_server_convict_of_nothing() {
    let Some(walker) = Walker::load() else { return };
    let walker = std::cell::RefCell::new(walker);
    let launcher =
        proptest::sample::select(vec!["npx", "uvx", "docker", "node", "python3.12", "go", "java", "deno", "x-mcp"]);
    let word = proptest::string::string_regex("[-a-ln-z0-9@:/._=# ]{0,300}").unwrap();
    let argvs = (launcher, proptest::collection::vec(word, 0..40));
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    runner
        .run(&argvs, |(launcher, words)| {
            let argv: Vec<String> = std::iter::once(launcher.to_owned()).chain(words).collect();
            // Without an `m` there is no `mcp`.
            prop_assert_ne!(walker.borrow_mut().judge(&argv), 'S', "{:?}", argv);
            Ok(())
        })
        .unwrap();
}
