//! Handshake evidence: an MCP message in a channel, and who reads it.
//!
//! The writer's side marks the channel, because an honest client writes a whole message while a
//! reader may take it byte by byte. The reader's side acts on the mark, and on what it sees itself.
//! The signal is delivered before the reader's system call returns: it never acts on the message.
//! Linux 5.17; reads and writes of anything else cost nothing.

use lazaret_common::event::HANDSHAKE as KIND;
use lazaret_common::label::{APPROVED, CLEARED, INERT, REWRITES};
use lazaret_common::mcp::Parser;
use lazaret_common::settings::{HANDSHAKE, Settings};

use crate::channel::{self, Channel, Partial, PartialKey, READING, WRITING};
use crate::iov::{LOOKS, SIFTS};
use crate::kernel::{current, offset, pointer};
use crate::maps::{CHANNELS, PARTIALS};
use crate::mark::{self, Mark};
use crate::scratch::Scratch;
use crate::{argv, iov, label, verdict};

/// Who reads so little at once reads a line byte by byte: what came before is part of it.
const SHORT: u64 = 8;

/// Judges what is being written; `iov` knows where it is.
#[inline(always)]
pub unsafe fn wrote(scratch: *mut Scratch, channel: Channel) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let length = (*scratch).input.all.left;
        if mark::is_rewritten() {
            mark::put(scratch, channel, length);
            return;
        }
        let key = PartialKey::of(channel, WRITING);
        let open = resume(scratch, channel, &key);
        let at_once = open || iov::may_be_json(scratch);
        if !at_once && iov::starts_binary(scratch) {
            return;
        }
        if !iov::examine(scratch, if at_once { SIFTS } else { LOOKS }, open, at_once) {
            return;
        }
        let found = (*scratch).parser.found_at_end();
        let carries = !found && (*scratch).parser.is_open();
        keep(scratch, channel, &key, open, carries);
        if found {
            mark::put(scratch, channel, length);
        }
    }
}

/// What a mark in the channel says is done. `count`: bytes that have been taken out of it. `true`: no mark says anything.
#[inline(always)]
pub unsafe fn obeys(settings: &Settings, scratch: *mut Scratch, channel: Channel, count: u64) -> bool {
    if !channel::may_be_noted(channel.key) {
        return true;
    }
    let Some(mark) = mark::standing(channel) else { return true };
    // SAFETY: scratch is this CPU's slot, the mark an entry of the map.
    unsafe {
        judge(settings, scratch, mark, channel);
        // What was read of it before it was marked is no use any more.
        let _ = PARTIALS.remove(&PartialKey::of(channel, READING));
        if count != 0 && mark::take(mark, channel, count) {
            forget(channel);
        }
    }
    false
}

/// The current task has got at what the mark stands for.
#[inline(always)]
unsafe fn judge(settings: &Settings, scratch: *mut Scratch, mark: *const Mark, channel: Channel) {
    // SAFETY: as above.
    unsafe {
        if mark::excuses(mark, channel) {
            return;
        }
        let flags = label::flags();
        if flags & CLEARED != 0 {
            if flags & CLEARED == APPROVED && !mark::is_for_approved(mark, channel) {
                convict(scratch, settings);
            }
            return;
        }
        if flags & (INERT | REWRITES) != 0 {
            mark::carry(mark);
        } else {
            convict(scratch, settings);
        }
    }
}

/// A message is being moved, unread, from one channel to another, or to somewhere else (key 0). `moved`: bytes that
/// have left the channel; `done`: bytes that were moved or copied.
#[inline(always)]
pub unsafe fn moves(settings: &Settings, scratch: *mut Scratch, from: Channel, to: Channel, moved: u64, done: bool) {
    if from.key == 0 || !channel::may_be_noted(from.key) {
        return;
    }
    let Some(mark) = mark::standing(from) else { return };
    // SAFETY: scratch is this CPU's slot, the mark an entry of the map.
    unsafe {
        if to.key != 0 && label::flags() & CLEARED == 0 {
            mark::pass_on(scratch, mark, to);
        }
        if done {
            judge(settings, scratch, mark, from);
        }
        if moved != 0 && mark::take(mark, from, moved) {
            forget(from);
        }
    }
}

/// Clears the note if nothing is kept about the channel any more.
#[inline(always)]
fn forget(channel: Channel) {
    let partial = |direction| PARTIALS.get_ptr(&PartialKey::of(channel, direction)).is_some();
    if CHANNELS.get_ptr(&channel.key).is_none() && !partial(WRITING) && !partial(READING) {
        channel::forget(channel.key);
    }
}

/// Looks at what came in without a mark. `takes`: the bytes have left the channel.
#[inline(always)]
pub unsafe fn look(settings: &Settings, scratch: *mut Scratch, channel: Channel, takes: bool) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let short = (*scratch).input.all.left < SHORT;
        let key = PartialKey::of(channel, READING);
        let open = resume(scratch, channel, &key);
        if open && (*scratch).parser.has_skipped() || !open && !short && !iov::may_be_json(scratch) {
            return;
        }
        if label::flags() & (CLEARED | INERT | REWRITES) != 0 {
            return;
        }
        if !iov::examine(scratch, SIFTS, open, true) {
            return;
        }
        let found = (*scratch).parser.found();
        if takes {
            let parser = &(*scratch).parser;
            let carries = !found && (parser.is_open() || parser.has_skipped() && (open || short));
            keep(scratch, channel, &key, open, carries);
        }
        if found && !mark::is_fed(channel) {
            convict(scratch, settings);
        }
    }
}

/// Goes on where the last piece of a message ended; `false` if it starts here.
#[inline(always)]
unsafe fn resume(scratch: *mut Scratch, channel: Channel, key: &PartialKey) -> bool {
    // SAFETY: scratch is this CPU's slot; the entry is read at once.
    unsafe {
        // Also where nothing is known of the channel: the parser stands where another one's message left it.
        (*scratch).parser = Parser::NEW;
        if !channel::may_be_noted(channel.key) {
            return false;
        }
        let Some(partial) = PARTIALS.get_ptr(key) else { return false };
        let inode = (*partial).inode;
        if inode != 0 && inode != channel.inode() {
            return false;
        }
        (*scratch).parser = (*partial).parser;
    }
    true
}

/// Remembers where a piece ended, or that nothing is to be remembered.
#[inline(always)]
unsafe fn keep(scratch: *mut Scratch, channel: Channel, key: &PartialKey, open: bool, carries: bool) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if carries {
            let partial = Partial { inode: channel.inode(), parser: (*scratch).parser };
            if PARTIALS.insert(key, &partial, 0).is_ok() && !open {
                channel::note(channel.key);
            }
        } else if open {
            let _ = PARTIALS.remove(key);
            forget(channel);
        }
    }
}

#[inline(always)]
pub unsafe fn convict(scratch: *mut Scratch, settings: &Settings) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.flags = 0;
        head.config_entry = 0;
        head.address_length = 0;
        head.address_family = 0;
        head.argv_length = 0;
        let task = current() as u64;
        argv::take(scratch, pointer(task, offset!(task_mm)));
        verdict::convict(scratch, settings, KIND, 1 << HANDSHAKE);
    }
}
