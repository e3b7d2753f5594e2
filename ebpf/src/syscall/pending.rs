//! What has been found out about a call, in working memory, and the judging of it.
//!
//! The body of a loop that runs once: the verifier follows it with nothing but unknown memory, and not anew
//! for each way that leads here.

use lazaret_common::settings::Settings;

use crate::channel::Channel;
use crate::handshake;
use crate::kernel::{Loop, repeat};
use crate::maps::SETTINGS;
use crate::scratch::Scratch;

#[repr(C)]
pub struct Pending {
    channel: Channel,
    readable: u32,
}

/// [`handshake::wrote`].
#[inline(always)]
pub unsafe fn wrote(scratch: *mut Scratch, channel: Channel) {
    // SAFETY: scratch is this CPU's slot.
    unsafe { (*scratch).pending.channel = channel };
    repeat(1, written, scratch);
}

/// Something was read; if it is readable, `iov` knows where it is. The scope has been checked.
///
/// What no mark tells of was written before anybody looked. It counts on the standard input only: a client may have
/// read it, that looks at what its own child has printed.
#[inline(always)]
pub unsafe fn was_read(scratch: *mut Scratch, channel: Channel, readable: bool) {
    // SAFETY: as above.
    unsafe {
        (*scratch).pending.channel = channel;
        (*scratch).pending.readable = readable as u32;
    }
    repeat(1, read, scratch);
}

unsafe extern "C" fn written(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        handshake::wrote(scratch, (*scratch).pending.channel);
    }
    1
}

unsafe extern "C" fn read(_: u64, context: *mut Loop) -> i64 {
    let settings: Option<&Settings> = SETTINGS.get(0);
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        let (channel, readable) = ((*scratch).pending.channel, (*scratch).pending.readable != 0);
        let Some(settings) = settings else { return 1 };
        let count = if readable { (*scratch).input.all.left } else { 0 };
        if handshake::obeys(settings, scratch, channel, count) && readable && channel.is_stdin() {
            handshake::look(settings, scratch, channel, true);
        }
    }
    1
}
