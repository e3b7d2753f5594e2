//! Docker inside the guest, the whole guest enforced: approved servers in their cages, and containers past the door,
//! on a kernel that has the handshake hooks. Debian 6.12 x {`bpf` in the LSM list, not}, in QEMU.
//!
//! Each machine is booted once and runs every scenario (`src/guest/docker.rs`); each test here asserts one of them.
//! `cargo xtask qemu 6.12 lsm docker` runs them and shows everything.

use std::sync::{Mutex, OnceLock, PoisonError};

use lazaret_tests::qemu::{self, BedError, Boot, Machine, Outcome};
use lazaret_tests::skip;

fn boot(bpf_listed: bool) -> &'static Result<Boot, BedError> {
    static INITRAMFS: OnceLock<Result<std::path::PathBuf, BedError>> = OnceLock::new();
    static BOOTS: [OnceLock<Result<Boot, BedError>>; 2] = [const { OnceLock::new() }; 2];
    /// Both at a time are slower than one after the other, and twice four gigabytes.
    static ONE: Mutex<()> = Mutex::new(());
    BOOTS[usize::from(bpf_listed)].get_or_init(|| {
        let initramfs = INITRAMFS.get_or_init(|| qemu::initramfs(true)).as_ref().map_err(BedError::clone)?;
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        qemu::boot(Machine { kernel: "6.12", bpf_listed, docker: true }, initramfs, &[], |_| {})
    })
}

/// What the guest reported; `None`, and a counted skip, where this host cannot boot it.
fn boot_or_skip(bpf_listed: bool) -> Option<&'static Boot> {
    match boot(bpf_listed) {
        Ok(boot) => Some(boot),
        Err(BedError::Missing(why)) => {
            // libtest names a test's thread after it.
            skip(std::thread::current().name().unwrap_or("a test of cages in a guest"), why);
            None
        }
        Err(BedError::Broken(why)) => panic!("{why}"),
    }
}

fn assert_passed(name: &str, bpf_listed: bool) {
    let Some(boot) = boot_or_skip(bpf_listed) else { return };
    let outcome = boot.results.iter().find(|(reported, _)| reported == name).map(|(_, outcome)| outcome);
    match outcome {
        Some(Outcome::Ok) => {}
        Some(Outcome::Failed(why) | Outcome::Skipped(why)) => panic!("{why}\nlog: {}", boot.log.display()),
        None => panic!("the guest never came to it: {:?}\nlog: {}", boot.results, boot.log.display()),
    }
}

macro_rules! on_both_machines {
    ($($property:ident,)*) => {
        const CHECKS: &[&str] = &[$(stringify!($property)),*];

        $(mod $property {
            const NAME: &str = stringify!($property);
            #[test]
            fn on_6_12_with_bpf_listed() {
                super::assert_passed(NAME, true);
            }
            #[test]
            fn on_6_12_without() {
                super::assert_passed(NAME, false);
            }
        })*
    };
}

on_both_machines! {
    without_a_daemon_a_container_answers_by_docker_run_by_hand_and_by_exec,
    an_approved_server_answers_from_its_cage_while_the_host_is_enforced,
    docker_exec_into_an_approved_container_is_stopped,
    docker_run_of_a_server_outside_the_door_is_stopped,
    a_request_written_to_docker_sock_by_hand_is_stopped_in_the_container,
    an_exec_written_to_docker_sock_by_hand_is_stopped_in_the_approved_container,
    a_database_client_run_with_docker_run_i_is_left_alone,
    docker_itself_is_never_stopped,
}

/// What a guest reports and nobody asserts would pass or fail in silence.
fn assert_nothing_else(bpf_listed: bool) {
    let Some(boot) = boot_or_skip(bpf_listed) else { return };
    let unknown: Vec<_> = boot.results.iter().filter(|(name, _)| !CHECKS.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "reported and not asserted: {unknown:?}\nlog: {}", boot.log.display());
}

mod everything_that_the_guest_reports_is_asserted {
    #[test]
    fn on_6_12_with_bpf_listed() {
        super::assert_nothing_else(true);
    }
    #[test]
    fn on_6_12_without() {
        super::assert_nothing_else(false);
    }
}
