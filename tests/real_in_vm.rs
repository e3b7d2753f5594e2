//! Real clients, servers and their honest neighbours in a guest whose whole host is enforced, on a kernel that has the
//! handshake hooks: Debian 6.12 with `bpf` in the LSM list, in QEMU, with this machine's own files.
//!
//! The guest is booted once and runs every scenario (`src/guest/real.rs`); each test here asserts one of them.

use std::sync::OnceLock;

use lazaret_tests::bed::{self, Property};
use lazaret_tests::qemu::{self, BedError, Boot, Machine};

const MACHINE: Machine = Machine { kernel: "6.12", bpf_listed: true, docker: false };

fn boot() -> &'static Result<Boot, BedError> {
    static BOOT: OnceLock<Result<Boot, BedError>> = OnceLock::new();
    BOOT.get_or_init(|| qemu::boot_on_these_files(MACHINE, |_| {}))
}

macro_rules! in_the_guest {
    ($($property:ident,)*) => {
        const PROPERTIES: &[Property] =
            &[$(Property { name: stringify!($property), evasions: &[], twin: false }),*];

        $(#[test]
        fn $property() {
            bed::assert_holds(MACHINE, boot(), stringify!($property));
        })*
    };
}

in_the_guest! {
    without_a_daemon_real_clients_connect_to_real_servers,
    a_real_server_that_no_rule_knows_is_stopped_at_its_handshake,
    claude_code_does_not_connect_to_a_server_outside_the_door,
    language_servers_a_debug_adapter_and_an_acp_agent_answer_under_enforce,
    tools_read_json_rpc_logs_under_enforce,
    nothing_real_has_a_record_but_the_servers_outside_the_door,
}

#[test]
fn everything_that_the_guest_reports_is_asserted() {
    bed::assert_nothing_else(boot(), PROPERTIES);
}
