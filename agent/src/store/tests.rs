use std::fs::File;

use super::log::{Appended, LogRow};
use super::*;
use serde::Deserialize;

#[derive(Debug, PartialEq, Serialize, Deserialize, Clone)]
struct Thing {
    name: String,
    n: u64,
}

impl Record for Thing {
    const TABLE: &'static str = "things";
    fn key(&self) -> String {
        self.name.clone()
    }
}

fn thing(name: &str, n: u64) -> Thing {
    Thing { name: name.into(), n }
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = Store::open(&path).unwrap();
    store.put_all(&[thing("b", 2), thing("a", 1)]).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.list::<Thing>().unwrap(), [thing("a", 1), thing("b", 2)]);
    assert!(store.delete::<Thing>("a").unwrap());
    assert_eq!(store.get::<Thing>("a").unwrap(), None);
}

#[test]
fn a_prefix_lists_what_begins_with_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    let keys = ["a", "a\0", "a\0b", "a\0\u{10ffff}", "a-\0b", "b\0a"];
    store.put_all(&keys.map(|key| thing(key, 1))).unwrap();
    let found: Vec<String> = store.list_prefix::<Thing>("a\0").unwrap().into_iter().map(|thing| thing.name).collect();
    assert_eq!(found, ["a\0", "a\0b", "a\0\u{10ffff}"]);
    assert_eq!(store.list::<Thing>().unwrap().len(), keys.len());
    assert!(store.list_prefix::<Thing>("c").unwrap().is_empty());
}

#[test]
fn a_refused_change_leaves_the_record_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    store.put(&thing("a", 1)).unwrap();
    let refused: Result<(), StoreError> =
        store.update("a", |_: Option<Thing>| Err(StoreError::InUse { path: "x".into() }));
    assert!(refused.is_err());
    assert_eq!(store.get::<Thing>("a").unwrap(), Some(thing("a", 1)));
}

#[test]
fn log_numbers_have_no_gap_and_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.append_log(|seq| seq.to_string().into_bytes()).unwrap().seq, 1);
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.append_log(|seq| seq.to_string().into_bytes()).unwrap().seq, 2);
    assert_eq!(store.log_tail(1).unwrap(), [(2, b"2".to_vec())]);
    assert_eq!(store.read_log(1, 10).unwrap().len(), 2);
}

#[test]
fn a_second_opener_is_told_that_the_state_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _first = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::InUse { .. })));
}

#[test]
fn a_truncated_file_is_refused_and_keeps_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path).unwrap();
    for n in 0..200 {
        store.put(&thing(&format!("thing-{n}"), n)).unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for keep in [0, 1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let error = Store::open(&path).err().unwrap_or_else(|| panic!("{keep} bytes were taken for a database"));
        assert!(matches!(error, StoreError::Damaged { .. }), "{keep}: {error}");
        assert!(std::fs::read(&path).unwrap() == whole[..keep], "{keep}: the bytes were changed");
    }
}

#[test]
fn several_records_change_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    store.put(&thing("a", 1)).unwrap();
    let keys = ["a".to_owned(), "b".to_owned()];
    let add = |i: usize, before: Option<Thing>| -> Result<Thing, StoreError> {
        Ok(thing(&keys[i], before.map_or(0, |thing| thing.n) + 10))
    };
    store.update_all(&keys, add).unwrap();
    assert_eq!(store.list::<Thing>().unwrap(), [thing("a", 11), thing("b", 10)]);
    let fail = |i: usize, before: Option<Thing>| match i {
        0 => add(i, before),
        _ => Err(StoreError::Io { path: "x".into(), source: std::io::ErrorKind::Other.into() }),
    };
    assert!(store.update_all(&keys, fail).is_err());
    assert_eq!(store.list::<Thing>().unwrap(), [thing("a", 11), thing("b", 10)]);
}

/// Appends a log entry that says its own number.
fn append(store: &Store) -> Appended {
    store.append_log(|seq| seq.to_string().into_bytes()).unwrap()
}

fn numbers(rows: Vec<LogRow>) -> Vec<u64> {
    for (seq, bytes) in &rows {
        assert_eq!(seq.to_string().as_bytes(), bytes);
    }
    rows.into_iter().map(|(seq, _)| seq).collect()
}

/// The files as they would be if the process ended now.
fn killed_now(path: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for entry in path.parent().unwrap().read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join(path.file_name().unwrap());
    (dir, path)
}

#[test]
fn what_is_written_soon_outlives_the_process_and_is_taken_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = Store::open(&path).unwrap();
    store.settle_log(&append(&store), Durability::Now).unwrap();
    let nothing_is_flushed = store.core.writing.lock().unwrap();
    store.put_soon(&[thing("a", 1), thing("a", 2)]).unwrap();
    append(&store);
    append(&store);
    let (_copy, killed) = killed_now(&path);
    drop(nothing_is_flushed);

    let after = Store::open(&killed).unwrap();
    assert_eq!(after.recovered(), Recovered { taken_over: 4, lost: 0 });
    assert_eq!(after.list::<Thing>().unwrap(), [thing("a", 2)]);
    assert_eq!(numbers(after.read_log(1, 9).unwrap()), [1, 2, 3]);
    assert_eq!(append(&after).seq, 4);
    drop(after);
    let again = Store::open(&killed).unwrap();
    assert_eq!(again.recovered(), Recovered::default());
    assert_eq!(numbers(again.read_log(1, 9).unwrap()), [1, 2, 3, 4]);
}

#[test]
fn a_process_killed_over_and_over_loses_no_entry_and_takes_none_twice() {
    let mut dirs = vec![tempfile::tempdir().unwrap()];
    let mut path = dirs[0].path().join("state.redb");
    let mut expected = 0;
    for round in 1..12 {
        let store = Store::open(&path).unwrap();
        assert_eq!(numbers(store.read_log(1, 999).unwrap()), (1..=expected).collect::<Vec<_>>());
        for _ in 0..round {
            let entry = append(&store);
            if round % 3 == 0 {
                store.settle_log(&entry, Durability::Now).unwrap();
            }
            expected += 1;
        }
        let nothing_is_flushed = store.core.writing.lock().unwrap();
        append(&store);
        expected += 1;
        let (dir, killed) = killed_now(&path);
        drop(nothing_is_flushed);
        dirs.push(dir);
        path = killed;
    }
}

#[test]
fn an_entry_behind_a_lost_one_is_not_taken_over_and_its_number_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = Store::open(&path).unwrap();
    store.settle_log(&append(&store), Durability::Now).unwrap();
    let nothing_is_flushed = store.core.writing.lock().unwrap();
    append(&store);
    // A transaction that does not get through: what comes now goes to the other file.
    drop(store.core.journal.cut());
    append(&store);
    append(&store);
    let (_copy, whole) = killed_now(&path);
    let (_copy, torn) = killed_now(&path);
    drop(nothing_is_flushed);
    assert_eq!(Store::open(&whole).unwrap().recovered(), Recovered { taken_over: 3, lost: 0 });

    // A power cut may take the one file and leave the other.
    let sizes = [0, 1].map(|which| std::fs::metadata(torn.with_extension(format!("journal.{which}"))).unwrap().len());
    let first = if sizes[0] < sizes[1] { 0 } else { 1 };
    std::fs::write(torn.with_extension(format!("journal.{first}")), b"").unwrap();
    let after = Store::open(&torn).unwrap();
    assert_eq!(after.recovered(), Recovered { taken_over: 0, lost: 2 });
    assert_eq!(numbers(after.read_log(1, 9).unwrap()), [1]);
    assert_eq!(append(&after).seq, 2);
    drop(after);
    assert_eq!(numbers(Store::open(&torn).unwrap().read_log(1, 9).unwrap()), [1, 2]);
}

#[test]
fn a_journal_that_was_cut_anywhere_gives_a_beginning_of_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = Store::open(&path).unwrap();
    let nothing_is_flushed = store.core.writing.lock().unwrap();
    let ends: Vec<u64> = (0..4)
        .map(|_| {
            append(&store);
            std::fs::metadata(path.with_extension("journal.0")).unwrap().len()
        })
        .collect();
    let (_copy, killed) = killed_now(&path);
    drop(nothing_is_flushed);
    for cut in (0..=ends[3]).step_by(5) {
        let (_copy, torn) = killed_now(&killed);
        File::options().write(true).open(torn.with_extension("journal.0")).unwrap().set_len(cut).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let after = Store::open(&torn).unwrap();
        assert_eq!(after.recovered(), Recovered { taken_over: whole, lost: 0 });
        assert_eq!(after.read_log(1, 9).unwrap().len(), whole);
    }
}

#[test]
fn readers_see_what_waits_behind_what_is_in_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    let look = || {
        assert_eq!(numbers(store.log_tail(3).unwrap()), [3, 4, 5]);
        assert_eq!(numbers(store.log_tail(1).unwrap()), [5]);
        assert_eq!(numbers(store.read_log(2, 3).unwrap()), [2, 3, 4]);
        assert_eq!(numbers(store.read_log(4, 9).unwrap()), [4, 5]);
        assert_eq!(numbers(store.read_log(6, 9).unwrap()), [0; 0]);
    };
    append(&store);
    store.settle_log(&append(&store), Durability::Now).unwrap();
    let nothing_is_flushed = store.core.writing.lock().unwrap();
    let [_, _, last] = [(); 3].map(|()| append(&store));
    look();
    drop(nothing_is_flushed);
    store.settle_log(&last, Durability::Now).unwrap();
    look();
}

#[test]
fn a_record_is_on_disk_together_with_all_that_was_written_soon_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path).unwrap();
    store.put_soon(&[thing("a", 1)]).unwrap();
    append(&store);
    store.put(&thing("b", 1)).unwrap();
    assert_eq!(store.core.journal.settled(), store.core.journal.last());
    store.put_soon(&[thing("a", 3)]).unwrap();
    assert_eq!(store.list::<Thing>().unwrap(), [thing("a", 3), thing("b", 1)]);
}

#[test]
fn writers_and_readers_at_once_see_numbers_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    const EACH: u64 = 300;
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..EACH {
                    let entry = append(store);
                    if n % 50 == writer {
                        store.settle_log(&entry, Durability::Now).unwrap();
                    }
                }
            });
        }
        let mut seen = 0;
        while seen < 3 * EACH {
            let found = numbers(store.read_log(1, usize::MAX).unwrap());
            assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
            assert!(found.len() as u64 >= seen);
            seen = found.len() as u64;
            let tail = numbers(store.log_tail(10).unwrap());
            assert!(tail.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        }
    });
}
