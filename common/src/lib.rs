//! Types that cross the kernel boundary, each defined once.
//!
//! Everything here is `#[repr(C)]` without implicit padding, so that both sides and the maps
//! between them agree byte for byte. User space reads them back with [`plain::Plain`].

#![no_std]

pub mod catalogue;
pub mod environment;
pub mod event;
pub mod hash;
pub mod hook;
pub mod http;
pub mod label;
pub mod mcp;
pub mod offsets;
pub mod plain;
pub mod settings;
pub mod sift;
pub mod watch;
