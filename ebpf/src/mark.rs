//! Marks: an MCP message stands in a channel, and who may read it all the same.
//!
//! A mark stands until as many bytes have been read as can have been in the channel, the message included:
//! neither a peek nor a failed read takes it away, nor an approved reader that takes something else.
//!
//! A message goes from a client to what the client started. So the writer itself and its ancestors may
//! read it: they look at what their own children print. But not on their standard input, or a server could
//! start the writer first. Everybody may read what a text tool writes that has taken it from a file; what it passes on from another channel keeps the readers that it had there.
//! Two writers leave the readers that both allow, or one could excuse who reads the other's.
//!
//! An approved server may read what comes from outside of its container, and may pass that on as it came. What it says
//! itself to a program that it has started opens a session that nobody has approved.

use lazaret_common::label::{APPROVED, INERT, REWRITES};

use crate::channel::{self, Channel};
use crate::kernel::{Loop, current, offset, pointer, repeat};
use crate::maps::{CARRIERS, CHANNELS, FEEDS, HEARD, REWRITING};
use crate::scratch::Scratch;
use crate::{iov, label, reader};

/// The writer and so many of its ancestors.
pub const READERS: usize = 16;
pub type Readers = [u32; READERS];

/// In the first place: everybody.
const EVERYBODY: u32 = u32::MAX;

/// Keyed by the kernel object that the reader will name.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Mark {
    /// Of the channel, so that reused memory does not inherit a mark; 0 if it is not known.
    pub identity: u64,
    /// Bytes that may be unread, the message included; not positive: it has been read.
    pub left: i64,
    /// Of the message.
    pub digest: u64,
    /// An approved server has written it, and not who talks to that.
    pub approved: u64,
    /// Processes that may read it, by [`reader`]; 0: nobody.
    pub readers: Readers,
}

/// The mark that stands in the channel.
#[inline(always)]
pub fn standing(channel: Channel) -> Option<*mut Mark> {
    let mark = CHANNELS.get_ptr_mut(&channel.key)?;
    // SAFETY: an entry of the map.
    let (identity, left) = unsafe { ((*mark).identity, core::ptr::read_volatile(&raw const (*mark).left)) };
    (left > 0 && channel.has_identity(identity)).then_some(mark)
}

/// The current task may read the message.
#[inline(always)]
pub unsafe fn excuses(mark: *const Mark, channel: Channel) -> bool {
    // SAFETY: an entry of the map.
    unsafe { is_among(&(*mark).readers, channel) }
}

#[inline(always)]
fn is_among(readers: &Readers, channel: Channel) -> bool {
    if readers[0] == EVERYBODY {
        return true;
    }
    holds(readers, reader::own()) && !channel.is_stdin()
}

/// Without a branch for each of them, or the verifier follows every combination.
#[inline(always)]
fn holds(readers: &Readers, own: u32) -> bool {
    let mut differences = 0;
    for reader in readers {
        // Only nothing less one has the highest bit.
        differences |= core::hint::black_box((*reader ^ own) as u64).wrapping_sub(1);
    }
    differences >> 63 != 0
}

/// `count` bytes have been read. `true`: the message was among them, nothing stands there any more.
#[inline(always)]
pub unsafe fn take(mark: *mut Mark, channel: Channel, count: u64) -> bool {
    // SAFETY: an entry of the map. Two readers at a time can miscount: what they leave is more than there is.
    unsafe {
        let left = core::ptr::read_volatile(&raw const (*mark).left).saturating_sub(count as i64);
        core::ptr::write_volatile(&raw mut (*mark).left, left);
        let all = left <= 0;
        if all {
            let _ = CHANNELS.remove(&channel.key);
        }
        all
    }
}

/// The current task, a text tool, has read the message: what it writes from now on is that message.
#[inline(always)]
pub unsafe fn carry(mark: *const Mark) {
    // SAFETY: an entry of the map.
    unsafe {
        if (*mark).readers[0] != EVERYBODY {
            let _ = CARRIERS.insert(&reader::own(), &(*mark).readers, 0); // the least recently used one makes room
            if label::flags() & REWRITES != 0
                && let Some(rewriting) = REWRITING.get_ptr_mut(0)
            {
                *rewriting = 1;
            }
        }
    }
}

/// The current task may have put the message that it has read into other words: whatever it writes is that message.
#[inline(always)]
pub fn is_rewritten() -> bool {
    REWRITING.get(0).is_some_and(|rewriting| *rewriting != 0)
        && label::flags() & REWRITES != 0
        && CARRIERS.get_ptr(&reader::own()).is_some()
}

/// The current task writes a message of `length` bytes.
#[inline(always)]
pub unsafe fn put(scratch: *mut Scratch, channel: Channel, length: u64) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        readers_of_current(scratch);
        iov::digest(scratch);
        (*scratch).mark.approved = (label::flags() & APPROVED) as u64;
        store(scratch, channel, length);
    }
}

/// The current task, an approved server, has got at a message. `false`: another one has written it, to a server that
/// it has started itself. What it only passes on was heard from outside before.
#[inline(always)]
pub unsafe fn is_for_approved(mark: *const Mark, channel: Channel) -> bool {
    // SAFETY: an entry of the map.
    unsafe {
        if (*mark).approved == 0 {
            let _ = HEARD.insert(&(*mark).digest, &1, 0); // the least recently used one makes room
            return true;
        }
        !channel.is_stdin() || HEARD.get_ptr(&(*mark).digest).is_some()
    }
}

/// The current task puts a file into the channel, unseen.
#[inline(always)]
pub unsafe fn feed(scratch: *mut Scratch, channel: Channel) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        readers_of_current(scratch);
        let _ = FEEDS.insert(&channel.key, &(*scratch).mark.readers, 0); // the least recently used one makes room
    }
}

/// The current task may read what somebody has put into the channel unseen. Whoever else has written to it has put
/// a mark there.
#[inline(always)]
pub unsafe fn is_fed(channel: Channel) -> bool {
    // SAFETY: an entry of the map.
    FEEDS.get_ptr(&channel.key).is_some_and(|readers| unsafe { is_among(&*readers, channel) })
}

/// Who may read what the current task writes.
#[inline(always)]
unsafe fn readers_of_current(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).mark.readers = [0; READERS];
        (*scratch).cursor = current() as u64;
        repeat(READERS as u32, ancestor, scratch);
        if label::flags() & (INERT | REWRITES) != 0 {
            match CARRIERS.get_ptr(&reader::own()) {
                Some(carried) => {
                    (*scratch).others = *carried;
                    meet(scratch);
                }
                None => (*scratch).mark.readers[0] = EVERYBODY,
            }
        }
    }
}

/// The message that `mark` tells of is moved to another channel.
#[inline(always)]
pub unsafe fn pass_on(scratch: *mut Scratch, mark: *const Mark, to: Channel) {
    // SAFETY: scratch is this CPU's slot, the mark an entry of the map.
    unsafe {
        (*scratch).mark.readers = (*mark).readers;
        (*scratch).mark.digest = (*mark).digest;
        (*scratch).mark.approved = (*mark).approved;
        let left = core::ptr::read_volatile(&raw const (*mark).left);
        store(scratch, to, left as u64);
    }
}

#[inline(always)]
unsafe fn store(scratch: *mut Scratch, channel: Channel, length: u64) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if let Some(old) = standing(channel) {
            (*scratch).others = (*old).readers;
            meet(scratch);
        }
        (*scratch).mark.identity = channel.identity();
        (*scratch).mark.left = channel.backlog().wrapping_add(length) as i64;
        if CHANNELS.insert(&channel.key, &(*scratch).mark, 0).is_ok() {
            channel::note(channel.key);
        }
    }
}

unsafe extern "C" fn ancestor(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let reader = reader::of(s.cursor);
        if reader == 0 {
            return 1;
        }
        s.mark.readers[i as usize & (READERS - 1)] = reader;
        s.cursor = pointer(s.cursor, offset!(task_real_parent));
    }
    0
}

/// Leaves the readers that are among the others too.
#[inline(always)]
unsafe fn meet(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        if s.others[0] == EVERYBODY {
            return;
        }
        if s.mark.readers[0] == EVERYBODY {
            s.mark.readers = s.others;
            return;
        }
        repeat(READERS as u32, meet_one, scratch);
    }
}

unsafe extern "C" fn meet_one(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let at = i as usize & (READERS - 1);
        let own = s.mark.readers[at];
        if !holds(&s.others, own) {
            s.mark.readers[at] = 0;
        }
    }
    0
}
