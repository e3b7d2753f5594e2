//! Reading the kernel's memory by the offsets that user space resolved.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_kernel};
use lazaret_common::offsets::Offsets;

use crate::scratch::Scratch;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::NONE;

/// An offset as the loader wrote it.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::offset_at(core::mem::offset_of!(lazaret_common::offsets::Offsets, $field))
    };
}
pub(crate) use offset;

/// Volatile, or the compiler would fold in the placeholder.
#[inline(always)]
pub fn offset_at(at: usize) -> u32 {
    // SAFETY: a field of a static of plain integers.
    unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u8>().add(at).cast::<u32>()) }
}

/// `value`, but at most `limit`, in a form whose bound the verifier sees: the compiler must not
/// know where the value came from.
#[inline(always)]
pub fn at_most(value: u64, limit: u64) -> u64 {
    let value = core::hint::black_box(value);
    if value > limit { limit } else { value }
}

/// Reads `T` at `base + offset`; `None` if the address is bad.
#[inline(always)]
pub fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the source and fills the whole value when it returns 0.
    unsafe {
        let from = base.wrapping_add(offset as u64) as *const c_void;
        if bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from) != 0 {
            return None;
        }
        Some(value.assume_init())
    }
}

/// A field of a typed kernel pointer: one load, which the verifier checks and which cannot fault.
#[inline(always)]
pub fn field<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the verifier knows the pointer's type and the offset's value.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}

/// A pointer at `base + offset`, 0 if it is null or cannot be read.
#[inline(always)]
pub fn pointer(base: u64, offset: u32) -> u64 {
    read::<u64>(base, offset).unwrap_or(0)
}

/// An argument of a hooked function as a number: the verifier lets nobody hash a pointer whose type it knows.
#[inline(always)]
pub fn argument(context: &impl EbpfContext, index: u32) -> u64 {
    pointer(context.as_ptr() as u64, 8 * index)
}

#[inline(always)]
pub fn current() -> *mut task_struct {
    // SAFETY: no arguments, and never null.
    unsafe { bpf_get_current_task_btf() }
}

/// What a loop's body gets: the scratch space, where it must keep all its state. State in
/// registers would make the verifier follow every combination of it.
#[repr(C)]
pub struct Loop {
    pub scratch: *mut Scratch,
}

pub type Body = unsafe extern "C" fn(u64, *mut Loop) -> i64;

/// Runs `body` for 0..count until it returns 1 (`bpf_loop`, Linux 5.17).
#[inline(always)]
pub fn repeat(count: u32, body: Body, scratch: *mut Scratch) {
    let mut context = Loop { scratch };
    // SAFETY: the body is a function of this object, and the context outlives the call.
    unsafe {
        bpf_loop(count, body as *mut c_void, (&raw mut context).cast(), 0);
    }
}
