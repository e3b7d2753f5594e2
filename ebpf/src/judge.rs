//! Judges the argv of a program that ran before the kernel programs did, by the rules that judge a new one.
//!
//! Attached nowhere: user space puts the argv into the map `QUESTION` and runs this.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use lazaret_common::event::ARGV;
use lazaret_common::hook::Hook;
use lazaret_common::settings::IS_CLIENT;

use crate::kernel::at_most;
use crate::maps::{QUESTION, fired};
use crate::{argv, exec, scratch};

/// Linux 5.10 (raw tracepoint programs can be run by hand).
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn judge(_: RawTracePointContext) -> i32 {
    fired(Hook::Judge);
    let (Some(question), Some(scratch)) = (QUESTION.get_ptr_mut(0), scratch::slot(scratch::JUDGE)) else { return 0 };
    // SAFETY: an array slot and this CPU's slot; user space asks one question at a time.
    unsafe {
        let length = at_most((*question).length as u64, ARGV as u64) as u32;
        let to = (&raw mut (*scratch).event.argv).cast();
        if bpf_probe_read_kernel(to, ARGV as u32, (&raw const (*question).argv).cast()) != 0 {
            return 0;
        }
        (*scratch).event.head.flags = 0;
        (*scratch).event.head.argv_length = length;
        (*scratch).words.length = length;
        (*scratch).words.total = (*question).total;
        (*scratch).words.start = 0;
        (*scratch).words.uid = (*question).uid;
        (*scratch).names.file = 0;
        let script = (*question).script;
        argv::words(scratch, if script != 0 { argv::WORDS } else { 1 });
        (*scratch).words.script = script;
        let (evidence, is_client) = exec::evidence(scratch);
        (*question).entry = (*scratch).event.head.config_entry;
        (*question).answer = evidence as u32 | if is_client { IS_CLIENT } else { 0 };
    }
    0
}
