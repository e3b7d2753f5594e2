//! The daemon's own HTTP door as the kernel knows it: MCP that is sent there goes around nothing.
//!
//! Invariant: the kernel is told only while this process listens there, and only where it forgets that by itself when
//! this process ends: whoever takes the port then is judged like everybody else.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use lazaret_common::label::DOOR;
use lazaret_common::settings::Door;

use super::guard::{Active, set_flags};
use super::hooks::Role;
use super::{Guard, KernelError, maps, sys};
use crate::config::Mode;

/// Closes the door to the kernel when it is dropped: before the socket is.
pub struct OpenDoor(Arc<Guard>);

impl Drop for OpenDoor {
    fn drop(&mut self) {
        if let Err(e) = self.0.active().write_door(&Door::default()) {
            tracing::error!("the kernel still takes the closed HTTP port for the door: {e}");
        }
    }
}

impl Guard {
    /// Lets processes below MCP clients speak MCP to `address`, where this process listens. `None`: this kernel would
    /// not forget it, and they are refused.
    pub fn open_door(self: &Arc<Self>, address: SocketAddr) -> Result<Option<OpenDoor>, KernelError> {
        let failed = |source| KernelError::Map { map: "DOOR", source };
        let mut active = self.active();
        let Some(loaded) = active.loaded.as_ref().filter(|loaded| loaded.is_proven(Role::DoorEnd)) else {
            return Ok(None);
        };
        let netns = std::fs::metadata("/proc/self/ns/net").map_err(failed)?.ino();
        let door = Door {
            since: sys::boot_clock() as u64,
            address: match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            },
            netns: u32::try_from(netns).map_err(|e| failed(std::io::Error::other(e)))?,
            port: address.port(),
            reserved: 0,
        };
        // The label first: by it the kernel knows whose end closes the door.
        set_flags(loaded, std::process::id(), DOOR, 0)?;
        active.write_door(&door)?;
        Ok(Some(OpenDoor(self.clone())))
    }

    /// Whether processes below MCP clients are refused MCP over HTTP on this host.
    pub fn refuses_http_below_clients(&self) -> bool {
        let sees = |role| self.active().loaded.as_ref().is_some_and(|loaded| loaded.is_proven(role));
        self.below_clients() == Mode::Enforce && (sees(Role::DenySend) || sees(Role::ModifySend))
    }
}

impl Active {
    fn write_door(&mut self, door: &Door) -> Result<(), KernelError> {
        match self.loaded.as_mut() {
            Some(loaded) => maps::set_at::<{ size_of::<Door>() }>(&mut loaded.ebpf, "DOOR", 0, door),
            None => Ok(()),
        }
    }
}
