//! Writing the kernel's maps, by name, in the types of `lazaret-common`.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lazaret_common::catalogue::{Package, PackageKey};
use lazaret_common::hook::{Hook, LOST_BY_READERS, LOST_EVENTS};
use lazaret_common::label::Label;
use lazaret_common::plain::Plain;
use lazaret_common::settings::Settings;

use super::KernelError;
use super::load::LABELS;
use super::sys::TaskMap;

pub(super) const COUNTERS: &str = "COUNTERS";

pub(super) fn failed(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |e| KernelError::Map { map, source: io::Error::other(super::load::chain(&e)) }
}

fn bytes<T: Plain, const N: usize>(value: &T) -> [u8; N] {
    let mut all = [0; N];
    let bytes = value.bytes();
    let n = bytes.len().min(N);
    all[..n].copy_from_slice(&bytes[..n]);
    all
}

/// A hash map, opened with its key's and value's sizes.
pub(super) struct Table<'a, const K: usize, const V: usize> {
    map: HashMap<&'a mut MapData, [u8; K], [u8; V]>,
    name: &'static str,
}

pub(super) fn table<'a, const K: usize, const V: usize>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<Table<'a, K, V>, KernelError> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    Ok(Table { map: HashMap::try_from(map).map_err(failed(name))?, name })
}

impl<const K: usize, const V: usize> Table<'_, K, V> {
    pub(super) fn put(&mut self, key: &impl Plain, value: &impl Plain) -> Result<(), KernelError> {
        self.put_bytes(bytes(key), bytes(value))
    }

    pub(super) fn put_bytes(&mut self, key: [u8; K], value: [u8; V]) -> Result<(), KernelError> {
        self.map.insert(key, value, 0).map_err(failed(self.name))
    }

    pub(super) fn all(&self) -> Vec<([u8; K], [u8; V])> {
        self.map.iter().filter_map(Result::ok).collect()
    }

    /// Absent is as good as removed: the kernel may have taken it.
    pub(super) fn remove(&mut self, key: [u8; K]) {
        let _ = self.map.remove(&key);
    }
}

pub(super) fn missing(map: &'static str) -> KernelError {
    KernelError::Map { map, source: io::Error::new(io::ErrorKind::NotFound, "the object does not have it") }
}

pub(super) fn set_at<const V: usize>(
    ebpf: &mut Ebpf,
    name: &'static str,
    index: u32,
    value: &impl Plain,
) -> Result<(), KernelError> {
    let map = ebpf.map_mut(name).ok_or_else(|| missing(name))?;
    let mut array: Array<_, [u8; V]> = Array::try_from(map).map_err(failed(name))?;
    array.set(index, bytes(value), 0).map_err(failed(name))
}

pub(super) fn get_at<const V: usize, T: Plain>(ebpf: &Ebpf, name: &'static str, index: u32) -> Result<T, KernelError> {
    let map = ebpf.map(name).ok_or_else(|| missing(name))?;
    let array: Array<_, [u8; V]> = Array::try_from(map).map_err(failed(name))?;
    let value = array.get(&index, 0).map_err(failed(name))?;
    T::read(&value).ok_or_else(|| missing(name))
}

pub(super) fn settings(ebpf: &mut Ebpf, settings: &Settings) -> Result<(), KernelError> {
    set_at::<{ size_of::<Settings>() }>(ebpf, "SETTINGS", 0, settings)
}

pub(super) fn packages(ebpf: &mut Ebpf, packages: &[(PackageKey, usize, Package)]) -> Result<(), KernelError> {
    const NAME: &str = "PACKAGES";
    let map = ebpf.map_mut(NAME).ok_or_else(|| missing(NAME))?;
    let mut trie: LpmTrie<_, [u8; size_of::<PackageKey>()], [u8; size_of::<Package>()]> =
        LpmTrie::try_from(map).map_err(failed(NAME))?;
    for (key, length, package) in packages {
        // The namespace's byte counts too.
        let key = Key::new(8 * (*length as u32 + 1), bytes(key));
        trie.insert(&key, bytes::<_, { size_of::<Package>() }>(package), 0).map_err(failed(NAME))?;
    }
    Ok(())
}

fn sum(ebpf: &Ebpf, name: &'static str, slot: u32) -> u64 {
    let Some(map) = ebpf.map(name) else { return 0 };
    let Ok(array) = PerCpuArray::<_, u64>::try_from(map) else { return 0 };
    array.get(&slot, 0).map_or(0, |values| values.iter().sum())
}

pub(super) fn fired(ebpf: &Ebpf, hook: Hook) -> u64 {
    sum(ebpf, "FIRED", hook as u32)
}

/// How often the kernel skipped the program: it says so where a process looks at its own descriptors. Linux 5.12.
pub(super) fn skipped(ebpf: &Ebpf, program: &str) -> u64 {
    let Some(Ok(fd)) = ebpf.program(program).map(aya::programs::Program::fd) else { return 0 };
    let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()));
    let text = std::fs::read_to_string(info).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

pub(super) fn counter(ebpf: &Ebpf, slot: u32) -> u64 {
    sum(ebpf, COUNTERS, slot)
}

/// Events that are on no record: for lack of room in the ring, or because a daemon was killed that had them.
pub(super) fn lost(ebpf: &Ebpf) -> u64 {
    counter(ebpf, LOST_EVENTS) + counter(ebpf, LOST_BY_READERS)
}

/// Makes a counter stand for `count`, of all processors together.
pub(super) fn set_counter(map: &mut Map, slot: u32, count: u64) -> Result<(), KernelError> {
    let io_failed = |source| KernelError::Map { map: COUNTERS, source };
    let mut array = PerCpuArray::<_, u64>::try_from(map).map_err(failed(COUNTERS))?;
    let mut values = vec![0; nr_cpus().map_err(|(_, source)| io_failed(source))?];
    if let Some(first) = values.first_mut() {
        *first = count;
    }
    let values = PerCpuValues::try_from(values).map_err(io_failed)?;
    array.set(slot, values, 0).map_err(failed(COUNTERS))
}

/// The pinned counters, for who has no object at hand.
pub(super) struct Counters(Map);

impl Counters {
    pub(super) fn pinned(dir: &Path) -> Result<Self, KernelError> {
        let map = MapData::from_pin(dir.join(COUNTERS)).and_then(Map::from_map_data).map_err(failed(COUNTERS))?;
        Ok(Self(map))
    }

    pub(super) fn get(&self, slot: u32) -> u64 {
        let array = PerCpuArray::<_, u64>::try_from(&self.0).and_then(|array| array.get(&slot, 0));
        array.map_or(0, |values| values.iter().sum())
    }

    /// A count that cannot be written says less than there was.
    pub(super) fn set(&mut self, slot: u32, count: u64) {
        if let Err(e) = set_counter(&mut self.0, slot, count) {
            tracing::error!("{e}");
        }
    }
}

pub(super) fn labels(ebpf: &Ebpf) -> Option<TaskMap<'_, { size_of::<Label>() }>> {
    let Some(Map::Unsupported(data)) = ebpf.map(LABELS) else { return None };
    let info = data.info().ok()?;
    TaskMap::new(data.fd().as_fd(), info.key_size(), info.value_size())
}
