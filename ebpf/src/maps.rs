//! The maps, and nothing but them.

use core::ffi::c_void;

use aya_ebpf::bindings::task_struct;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_task_storage_get;
use aya_ebpf::macros::btf_map;
use lazaret_common::catalogue::{MAX_PACKAGES, MAX_STEPS, Package, PackageKey, STATES, State, Step, StepKey};
use lazaret_common::hook::{COUNTERS as COUNTER_SLOTS, HOOKS, Hook};
use lazaret_common::http::Http;
use lazaret_common::label::Label;
use lazaret_common::settings::{
    CONTAINER_ID, Door, Endpoint, EntryKey, ExecutableKey, MAX_ENDPOINTS, MAX_ENTRIES, MAX_EXECUTABLES, MAX_GRANTS, Question,
    Settings, UNIX_PATH,
};

use lazaret_common::watch::{Call, Candidate, Gate, MAX_TALKED, Watch};

use crate::channel::{self, Partial, PartialKey};
use crate::connect_send::Dialogue;
use crate::mark::{Mark, Readers};
use crate::scratch::{SLOTS, Scratch};

/// Labels of tasks. aya has no task storage; this is the definition that the loader reads.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; 29],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 1],
}

// SAFETY: placeholders that the loader replaces; never dereferenced.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    #[inline(always)]
    pub fn get(&self, task: *mut task_struct) -> *mut T {
        // SAFETY: the verifier checks that `task` is a task.
        unsafe { bpf_task_storage_get(self.pointer(), task, core::ptr::null_mut(), 0).cast() }
    }

    /// Makes a zeroed value if there is none.
    #[inline(always)]
    pub fn get_or_create(&self, task: *mut task_struct) -> *mut T {
        // SAFETY: as above; 1 is BPF_LOCAL_STORAGE_GET_F_CREATE.
        unsafe { bpf_task_storage_get(self.pointer(), task, core::ptr::null_mut(), 1).cast() }
    }

    #[inline(always)]
    fn pointer(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "LABELS")]
pub static LABELS: TaskStorage<Label> = TaskStorage::new();

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub static EVENTS: RingBuf<u64, { 4 << 20 }> = RingBuf::new();

#[btf_map]
static FIRED: PerCpuArray<u64, HOOKS> = PerCpuArray::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTER_SLOTS> = PerCpuArray::new();

#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, SLOTS> = PerCpuArray::new();

#[btf_map]
pub static EXECUTABLES: HashMap<ExecutableKey, u32, { MAX_EXECUTABLES as usize }> = HashMap::new();

#[btf_map]
pub static ENTRY_LENGTHS: HashMap<u32, u32, { MAX_ENTRIES as usize }> = HashMap::new();

#[btf_map]
pub static ENTRIES: HashMap<EntryKey, u64, { MAX_ENTRIES as usize }> = HashMap::new();

#[btf_map]
pub static GRANTS: HashMap<[u8; CONTAINER_ID], u64, { MAX_GRANTS as usize }> = HashMap::new();

#[btf_map]
pub static STEPS: HashMap<StepKey, Step, { MAX_STEPS as usize }> = HashMap::new();

#[btf_map]
pub static STATE_RULES: Array<State, STATES> = Array::new();

#[btf_map]
pub static PACKAGES: LpmTrie<PackageKey, Package, { MAX_PACKAGES as usize }> = LpmTrie::new();

/// Names of UNIX sockets that only the door may reach, or of their last components, padded with zeros.
#[btf_map]
pub static PROTECTED: HashMap<[u8; UNIX_PATH], u32, 64> = HashMap::new();

/// Remote MCP servers that client configs name.
#[btf_map]
pub static ENDPOINTS: HashMap<Endpoint, u32, { MAX_ENDPOINTS as usize }> = HashMap::new();

/// Where the daemon itself serves, while it does.
#[btf_map]
pub static DOOR: Array<Door, 1> = Array::new();

/// Connections to the door, and since when the one stood open that they were made to.
#[btf_map]
pub static KNOCKED: LruHashMap<Dialogue, u64, 4096> = LruHashMap::new();

/// What was sent so far of something that may become MCP.
#[btf_map]
pub static DIALOGUES: LruHashMap<Dialogue, Http, 4096> = LruHashMap::new();

/// When user space was last told of a connect, by process and target.
#[btf_map]
pub static TOLD: LruHashMap<u64, u64, 4096> = LruHashMap::new();

#[btf_map]
pub static CHANNELS: LruHashMap<u64, Mark, 8192> = LruHashMap::new();

/// An argv that user space wants judged, and what came of it.
#[btf_map]
pub static QUESTION: Array<Question, 1> = Array::new();

/// What candidates are, and whether the programs on system calls are attached.
#[btf_map]
pub static WATCH: Array<Watch, 1> = Array::new();

#[btf_map]
pub static GATE: Array<Gate, 1> = Array::new();

#[btf_map]
pub static CANDIDATES: RingBuf<Candidate, { 64 << 10 }> = RingBuf::new();

/// When a process first read from a channel while the programs on system calls were attached.
#[btf_map]
pub static TALKED: LruHashMap<u32, u64, { MAX_TALKED as usize }> = LruHashMap::new();

#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "CALLS")]
pub static CALLS: TaskStorage<Call> = TaskStorage::new();

#[btf_map]
pub static NOTED: Array<u64, { channel::SLOTS }> = Array::new();

/// Text tools that have read a message from a channel, and who may read what they write.
#[btf_map]
pub static CARRIERS: LruHashMap<u32, Readers, 1024> = LruHashMap::new();

/// 1 once a text tool that can rewrite has read a message: from then on writes ask for their writer.
#[btf_map]
pub static REWRITING: Array<u32, 1> = Array::new();

/// Messages that an approved server has got from outside, by digest.
#[btf_map]
pub static HEARD: LruHashMap<u64, u32, 4096> = LruHashMap::new();

/// Who may read what was put into a pipe by way of `splice` or `sendfile`.
#[btf_map]
pub static FEEDS: LruHashMap<u64, Readers, 1024> = LruHashMap::new();

#[btf_map]
pub static PARTIALS: LruHashMap<PartialKey, Partial, 8192> = LruHashMap::new();

/// Says that the program ran.
#[inline(always)]
pub fn fired(hook: Hook) {
    bump(&FIRED, hook as u32);
}

#[inline(always)]
pub fn count(slot: u32) {
    bump(&COUNTERS, slot);
}

#[inline(always)]
fn bump<const N: usize>(map: &PerCpuArray<u64, N>, slot: u32) {
    if let Some(counter) = map.get_ptr_mut(slot) {
        // SAFETY: this CPU's own slot.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
