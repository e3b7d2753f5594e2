//! Programs that deny on kernels where LSM programs never fire: `fmod_ret` on a `security_*` function.
//!
//! aya cannot load them. An LSM program and one on the function that calls its hook get the same
//! arguments and mean the same by what they return, so that one program serves both ways: here the
//! object is read once more, and its LSM programs are loaded over the maps that aya has made.
//! Linux 5.15 (5.7, and `bpf_get_current_task_btf` in tracing programs).

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use aya::maps::{Map, MapData};
use aya::{Btf, Ebpf};
use aya_obj::Object;
use aya_obj::btf::BtfKind;

use super::load::chain;
use super::sys;

/// The object as the kernel takes it: references to maps and calls resolved.
pub(super) struct Loader {
    object: Object,
    types: Option<OwnedFd>,
}

impl Loader {
    /// Reads the object that `ebpf` was made of.
    pub(super) fn new(bytes: &[u8], ebpf: &Ebpf) -> Result<Self, String> {
        let unusable = |e: &dyn std::error::Error| format!("cannot use the kernel programs: {}", chain(e));
        let mut object = Object::parse(bytes).map_err(|e| unusable(&e))?;
        let features = aya::features();
        let types = match features.btf() {
            Some(features) => {
                object.fixup_and_sanitize_btf(features).map_err(|e| unusable(&e))?.map(|btf| btf.to_bytes())
            }
            None => None,
        };
        let types = types.map(|bytes| sys::load_types(&bytes)).transpose();
        let types = types.map_err(|e| format!("the kernel refused the programs' type information: {e}"))?;
        let maps = std::mem::take(&mut object.maps);
        let made = maps.iter().filter_map(|(name, map)| Some((name.as_str(), descriptor(ebpf.map(name)?)?, map)));
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(made, &sections).map_err(|e| unusable(&e))?;
        object.relocate_calls(&sections).map_err(|e| unusable(&e))?;
        object.sanitize_functions(features);
        Ok(Self { object, types })
    }

    /// Loads `program` and lets it decide what `target` returns, until the link is closed.
    pub(super) fn attach(&self, program: &str, target: &str, btf: &Btf) -> Result<OwnedFd, String> {
        let id =
            btf.id_by_type_name_kind(target, BtfKind::Func).map_err(|e| format!("cannot attach: {}", chain(&e)))?;
        let loaded = self.load(program, sys::Purpose::ModifyReturn(id))?;
        sys::attach_tracing(loaded.as_fd()).map_err(|e| format!("cannot attach: {e}"))
    }

    /// Loads `program` and lets it decide about connects to UNIX sockets in `cgroup`: another kind of program
    /// that aya does not know.
    pub(super) fn attach_unix_connect(&self, program: &str, cgroup: &Path) -> Result<OwnedFd, String> {
        let loaded = self.load(program, sys::Purpose::UnixConnect)?;
        let cgroup = std::fs::File::open(cgroup).map_err(|e| format!("cannot open {}: {e}", cgroup.display()))?;
        sys::attach_unix_connect(loaded.as_fd(), cgroup.as_fd()).map_err(|e| format!("cannot attach: {e}"))
    }

    fn load(&self, program: &str, purpose: sys::Purpose) -> Result<OwnedFd, String> {
        let found = self.object.programs.get(program).ok_or("the object does not have this program")?;
        let function = self.object.functions.get(&found.function_key()).ok_or("the program has no code")?;
        let code = sys::Code {
            name: program,
            license: &found.license,
            instructions: &function.instructions,
            types: self.types.as_ref().map(|fd| fd.as_fd()),
            functions: &function.func_info.func_info_bytes(),
            functions_of: function.func_info_rec_size,
            lines: &function.line_info.line_info_bytes(),
            lines_of: function.line_info_rec_size,
        };
        sys::load_program(&code, purpose, None).map_err(|e| self.why(&code, purpose, &e))
    }

    /// Asks the verifier once more, for its reasons.
    fn why(&self, code: &sys::Code<'_>, purpose: sys::Purpose, error: &io::Error) -> String {
        let mut log = vec![0; 1 << 20];
        let _ = sys::load_program(code, purpose, Some(&mut log)); // refused once, it is refused again
        let log = String::from_utf8_lossy(&log);
        let log = log.trim_end_matches('\0');
        match (error.raw_os_error(), super::load::last_words(log)) {
            (Some(libc::EPERM | libc::EACCES), "") => match purpose {
                sys::Purpose::ModifyReturn(_) => format!("the kernel refuses fmod_ret programs ({error})"),
                sys::Purpose::UnixConnect => format!("the kernel refuses cgroup programs ({error})"),
            },
            (_, last) => format!("the kernel refused the program: {error}: {last}"),
        }
    }
}

/// The descriptor of a map of the kinds that the object has; a program with another does not load.
fn descriptor(map: &Map) -> Option<RawFd> {
    let of = |data: &MapData| data.fd().as_fd().as_raw_fd();
    Some(match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::LpmTrie(data)
        | Map::RingBuf(data)
        | Map::Queue(data)
        | Map::Stack(data)
        | Map::SkStorage(data)
        | Map::Unsupported(data) => of(data),
        _ => return None,
    })
}
