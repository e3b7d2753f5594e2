//! Lazaret's kernel programs: the verdict is made here and never waits for user space.
//!
//! Each program bumps its counter first, so that user space can prove that it fires, and checks
//! the scope before anything else: outside of it nothing is denied, stopped or killed.

#![no_std]
#![no_main]

mod argv;
mod catalogue;
mod channel;
mod connect;
mod connect_send;
mod door;
mod ends;
mod entries;
mod event;
mod exec;
mod fork;
mod grant;
mod handshake;
mod hold;
mod iov;
mod json;
mod judge;
mod kernel;
mod label;
mod maps;
mod mark;
mod names;
mod package;
mod path;
mod reader;
mod scope;
mod scratch;
mod sift;
mod splice;
mod stdio;
mod syscall;
mod terminal;
mod trust;
mod verdict;

/// The kernel lets only GPL-compatible programs read kernel memory and send signals.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
