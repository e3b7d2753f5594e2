//! Whether Lazaret judges the current task at all. Every program asks this first.

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_uid_gid};
use lazaret_common::label::IN_SCOPE;
use lazaret_common::settings::{SCOPE_CGROUP, SCOPE_HOST, SCOPE_UID, Settings};

use crate::label;
use crate::maps::SETTINGS;

/// The settings, if the current task is in scope.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    let settings = SETTINGS.get(0)?;
    contains(settings).then_some(settings)
}

#[inline(always)]
fn contains(settings: &Settings) -> bool {
    settings.scope == SCOPE_HOST || is_inside(settings) || (settings.scope != 0 && label::flags() & IN_SCOPE != 0)
}

/// The current task is inside a scope that is narrower than the host, now.
#[inline(always)]
pub fn is_inside(settings: &Settings) -> bool {
    match settings.scope {
        // SAFETY: plain helpers without pointers.
        SCOPE_CGROUP => unsafe {
            bpf_get_current_ancestor_cgroup_id(settings.scope_level as i32) == settings.scope_cgroup
        },
        // SAFETY: as above.
        SCOPE_UID => unsafe { bpf_get_current_uid_gid() as u32 == settings.scope_uid },
        _ => false,
    }
}
