//! Docker inside the guest, the whole guest enforced: approved servers in their cages, and containers past the door,
//! on a kernel that has the handshake hooks. Debian 6.12 x {`bpf` in the LSM list, not}, in QEMU.
//!
//! Each machine is booted once and runs every scenario (`src/guest/docker.rs`); each test here asserts one of them.
//! `cargo xtask qemu 6.12 lsm docker` runs them and shows everything.

use std::sync::{Mutex, OnceLock, PoisonError};

use lazaret_tests::bed::{self, Property};
use lazaret_tests::bed_table;
use lazaret_tests::qemu::{self, BedError, Boot, Machine};

const LSM: Machine = Machine { kernel: "6.12", bpf_listed: true, docker: true };
const NO_LSM: Machine = Machine { kernel: "6.12", bpf_listed: false, docker: true };

fn boot(machine: Machine) -> &'static Result<Boot, BedError> {
    static INITRAMFS: OnceLock<Result<std::path::PathBuf, BedError>> = OnceLock::new();
    static BOOTS: [OnceLock<Result<Boot, BedError>>; 2] = [const { OnceLock::new() }; 2];
    /// Both at a time are slower than one after the other, and twice four gigabytes.
    static ONE: Mutex<()> = Mutex::new(());
    BOOTS[usize::from(machine.bpf_listed)].get_or_init(|| {
        let initramfs = INITRAMFS.get_or_init(|| qemu::initramfs(true)).as_ref().map_err(BedError::clone)?;
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let boot = qemu::boot(machine, initramfs, &[], |_| {})?;
        bed::record("cage_in_vm", machine, &boot, PROPERTIES)?;
        Ok(boot)
    })
}

/// As in `kernel.rs`: a name, and behind `=>` the evasions that it shows to be stopped or whose `twin` it is.
macro_rules! on_both_machines {
    ($($property:ident $(=> $($kind:ident)? [$($number:literal),*])?,)*) => {
        const PROPERTIES: &[Property] = &[$(Property {
            name: stringify!($property),
            evasions: &[$($($number),*)?],
            twin: !concat!($($(stringify!($kind))?)?).is_empty(),
        }),*];

        $(mod $property {
            use super::{LSM, NO_LSM, bed, boot};
            const NAME: &str = stringify!($property);
            #[test]
            fn on_6_12_with_bpf_listed() {
                bed::assert_holds(LSM, boot(LSM), NAME);
            }
            #[test]
            fn on_6_12_without() {
                bed::assert_holds(NO_LSM, boot(NO_LSM), NAME);
            }
        })*
    };
}

on_both_machines! {
    without_a_daemon_a_container_answers_by_docker_run_by_hand_and_by_exec,
    an_approved_server_answers_from_its_cage_while_the_host_is_enforced => twin [18],
    a_server_that_an_approved_one_starts_is_stopped => [29],
    what_an_approved_server_passes_on_as_it_came_is_left_alone => twin [29],
    docker_exec_into_an_approved_container_is_stopped => [18],
    docker_run_of_a_server_outside_the_door_is_stopped => [17],
    a_request_written_to_docker_sock_by_hand_is_stopped_in_the_container => [17],
    an_exec_written_to_docker_sock_by_hand_is_stopped_in_the_approved_container => [17, 18],
    a_database_client_run_with_docker_run_i_is_left_alone => twin [17],
    docker_itself_is_never_stopped => twin [17],
}

/// What a guest reports and nobody asserts would pass or fail in silence.
mod everything_that_the_guest_reports_is_asserted {
    use super::{LSM, NO_LSM, PROPERTIES, bed, boot};
    #[test]
    fn on_6_12_with_bpf_listed() {
        bed::assert_nothing_else(boot(LSM), PROPERTIES);
    }
    #[test]
    fn on_6_12_without() {
        bed::assert_nothing_else(boot(NO_LSM), PROPERTIES);
    }
}

#[test]
fn the_page_of_evasions_says_what_both_machines_show() {
    for machine in [LSM, NO_LSM] {
        if let Some(boot) = bed::boot_or_skip(boot(machine)) {
            bed_table::assert_page_says(machine, boot, PROPERTIES);
        }
    }
}
