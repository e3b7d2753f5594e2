//! Lazaret as it is installed, below a real systemd: the packaged unit through restarts, a kill and a reboot, and engines
//! that a user runs without root, on cgroup v2 as systemd delegates it. Debian 12 from a disk, kernel 6.12, in QEMU.
//!
//! Each guest is booted once and runs every scenario (`src/guest/installed`); each test here asserts one of them.

use std::sync::{Once, OnceLock};

use lazaret_tests::bed::{self, Property};
use lazaret_tests::installed::{self, MACHINE, Session};
use lazaret_tests::qemu::{BedError, Boot};

fn boot(session: Session) -> &'static Result<Boot, BedError> {
    static BOTH: Once = Once::new();
    // Each guest keeps one processor busy. Where tests were chosen by name, the other one may not be wanted.
    if std::env::args().skip(1).all(|argument| argument.starts_with('-')) {
        BOTH.call_once(|| {
            for session in [Session::Service, Session::Rootless] {
                std::thread::spawn(move || booted(session));
            }
        });
    }
    booted(session)
}

fn booted(session: Session) -> &'static Result<Boot, BedError> {
    static BOOTS: [OnceLock<Result<Boot, BedError>>; 2] = [const { OnceLock::new() }; 2];
    BOOTS[usize::from(session == Session::Rootless)].get_or_init(|| installed::boot(session, |_| {}))
}

macro_rules! in_the_guest {
    ($name:ident, $session:expr, $($property:ident,)*) => {
        mod $name {
            use super::*;

            const PROPERTIES: &[Property] =
                &[$(Property { name: stringify!($property), evasions: &[], twin: false }),*];

            $(#[test]
            fn $property() {
                bed::assert_holds(MACHINE, boot($session), stringify!($property));
            })*

            #[test]
            fn everything_that_the_guest_reports_is_asserted() {
                bed::assert_nothing_else(boot($session), PROPERTIES);
            }
        }
    };
}

in_the_guest! {
    service, Session::Service,
    the_installed_service_gets_active_below_systemd_with_every_hook_proven,
    the_unit_leaves_the_daemon_what_it_needs_and_takes_the_rest,
    a_server_is_approved_and_called_through_the_installed_service,
    a_reload_keeps_the_process_and_a_restart_keeps_what_was_approved,
    a_killed_daemon_is_started_again_by_systemd_and_serves,
    where_no_server_can_run_the_journal_warns_of_it,
    a_stopped_service_leaves_no_container_and_the_kernel_guards_on,
    after_a_boot_the_service_is_there_and_what_was_approved_answers,
}

in_the_guest! {
    rootless, Session::Rootless,
    doctor_says_what_differs_with_rootless_podman,
    a_server_behind_rootless_podman_is_approved_and_answers_from_a_closed_cage,
    a_cage_behind_rootless_podman_gets_no_more_memory_and_processes_than_it_may,
    a_cage_behind_rootless_podman_gets_its_variables_and_its_egress,
    an_image_of_a_file_is_made_behind_rootless_podman,
    doctor_says_what_differs_with_rootless_docker,
    a_server_behind_rootless_docker_is_approved_and_answers_from_a_closed_cage,
    a_cage_behind_rootless_docker_gets_no_more_memory_and_processes_than_it_may,
    a_cage_behind_rootless_docker_gets_its_variables_and_its_egress,
    an_image_of_a_file_is_made_behind_rootless_docker,
}
