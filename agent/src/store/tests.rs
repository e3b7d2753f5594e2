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
    assert_eq!(store.append_log(|seq| seq.to_string().into_bytes()).unwrap(), 1);
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.append_log(|seq| seq.to_string().into_bytes()).unwrap(), 2);
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
