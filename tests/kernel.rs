//! The kernel side on real kernels: {Debian 6.1, 6.12} x {`bpf` in the LSM list, not}, in QEMU.
//!
//! Each kernel is booted once and runs every scenario (`src/guest/`); each test here asserts one of them on one
//! kernel. `cargo xtask qemu 6.12 lsm NAME` runs one scenario and shows everything.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use lazaret_tests::qemu::{self, BedError, Boot, Machine, Outcome};
use lazaret_tests::skip;

/// Guests at a time: each has two processors and emulates them.
static FREE: (Mutex<usize>, Condvar) = (Mutex::new(2), Condvar::new());

fn boot(machine: Machine) -> &'static Result<Boot, BedError> {
    static INITRAMFS: OnceLock<Result<std::path::PathBuf, BedError>> = OnceLock::new();
    static BOOTS: [OnceLock<Result<Boot, BedError>>; 4] = [const { OnceLock::new() }; 4];
    let slot = usize::from(machine.kernel == "6.12") * 2 + usize::from(machine.bpf_listed);
    BOOTS[slot].get_or_init(|| {
        let initramfs = INITRAMFS.get_or_init(|| qemu::initramfs(false)).as_ref().map_err(BedError::clone)?;
        let (free, freed) = &FREE;
        let mut count = freed
            .wait_while(free.lock().unwrap_or_else(PoisonError::into_inner), |count| *count == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        drop(count);
        let boot = qemu::boot(machine, initramfs, &[], |_| {});
        *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        freed.notify_one();
        boot
    })
}

/// What the guest on `machine` reported; `None`, and a counted skip, where this host cannot boot it.
fn boot_or_skip(kernel: &'static str, bpf_listed: bool) -> Option<&'static Boot> {
    match boot(Machine { kernel, bpf_listed, docker: false }) {
        Ok(boot) => Some(boot),
        Err(BedError::Missing(why)) => {
            skip(&test_name(), why);
            None
        }
        Err(BedError::Broken(why)) => panic!("{why}"),
    }
}

/// libtest names a test's thread after it.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("a kernel test").to_owned()
}

fn assert_passed(name: &str, kernel: &'static str, bpf_listed: bool) {
    let Some(boot) = boot_or_skip(kernel, bpf_listed) else { return };
    let outcome = boot.results.iter().find(|(reported, _)| reported == name).map(|(_, outcome)| outcome);
    match outcome {
        Some(Outcome::Ok) => {}
        Some(Outcome::Skipped(why)) => skip(&test_name(), why),
        Some(Outcome::Failed(why)) => panic!("{why}\nlog: {}", boot.log.display()),
        // Its session never came so far: the guest has said why under another name.
        None => panic!(
            "the guest never came to it; what failed there: {:?}\nlog: {}",
            boot.results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect::<Vec<_>>(),
            boot.log.display()
        ),
    }
}

macro_rules! on_every_kernel {
    ($($property:ident,)*) => {
        const CHECKS: &[&str] = &[$(stringify!($property)),*];

        $(mod $property {
            const NAME: &str = stringify!($property);
            #[test]
            fn on_6_1_with_bpf_listed() {
                super::assert_passed(NAME, "6.1", true);
            }
            #[test]
            fn on_6_1_without() {
                super::assert_passed(NAME, "6.1", false);
            }
            #[test]
            fn on_6_12_with_bpf_listed() {
                super::assert_passed(NAME, "6.12", true);
            }
            #[test]
            fn on_6_12_without() {
                super::assert_passed(NAME, "6.12", false);
            }
        })*
    };
}

on_every_kernel! {
    without_a_daemon_every_server_answers,
    without_a_daemon_every_detour_leads_to_an_answer,

    status_names_the_backend_that_this_kernel_can_carry,
    every_active_hook_was_proven_by_firing_it,
    a_server_that_a_client_config_names_never_runs_an_instruction,
    a_record_says_what_ran_where_and_who_started_it,
    a_configured_command_without_a_path_is_the_one_that_path_finds,
    the_program_of_a_configured_server_with_other_arguments_is_left_alone,
    a_config_entry_written_while_the_daemon_runs_is_learned,
    a_start_that_the_catalogue_names_never_runs_an_instruction,
    a_launcher_that_is_a_script_is_recognised_by_what_its_interpreter_runs,
    installing_and_naming_a_server_package_is_left_alone,
    every_kind_of_launch_in_the_catalogue_is_stopped,
    launchers_at_honest_work_are_left_alone,
    a_shadow_server_unknown_to_the_exec_rules_is_killed_before_it_reads_initialize,
    a_shadow_server_on_a_socket_pair_is_killed_before_it_reads_initialize,
    receiving_from_a_socket_pair_is_reading,
    reading_byte_by_byte_does_not_hide_the_handshake,
    reading_in_pieces_does_not_hide_the_handshake,
    the_order_of_members_does_not_hide_the_handshake,
    a_string_id_does_not_hide_the_handshake,
    white_space_does_not_hide_the_handshake,
    escapes_in_member_names_do_not_hide_the_handshake,
    a_long_message_does_not_hide_the_handshake,
    a_message_before_it_does_not_hide_the_handshake,
    a_content_length_frame_does_not_hide_the_handshake,
    a_discover_request_is_a_handshake,
    a_tools_list_that_opens_a_session_is_a_handshake,
    a_text_tool_in_between_does_not_hide_the_handshake,
    another_program_in_between_does_not_hide_the_handshake,
    a_fifo_as_stdin_does_not_hide_the_handshake,
    a_session_of_its_own_does_not_hide_the_handshake,
    an_orphan_is_judged_as_its_parents_were,
    the_loader_as_the_program_does_not_hide_the_handshake,
    what_was_born_in_scope_stays_in_it_when_it_moves_out,
    language_servers_debug_adapters_acp_and_codex_are_left_alone,
    grep_over_a_json_rpc_log_in_a_pipe_is_left_alone,
    grep_over_a_log_of_mcp_traffic_in_a_pipe_is_left_alone,
    the_connector_may_read_what_the_client_sends_it,
    outside_of_the_cgroup_a_shadow_server_is_left_alone,
    a_cgroup_below_the_judged_one_is_judged,
    kill_9_of_the_daemon_leaves_enforcement_on_and_a_new_daemon_takes_over,
    the_kernel_guards_until_it_is_detached,

    a_held_server_runs_its_first_instruction_only_when_it_is_released,
    a_held_server_that_is_killed_never_runs,
    a_server_held_at_the_handshake_on_a_pipe_answers_when_it_is_released,
    a_server_held_at_the_handshake_on_a_socket_pair_answers_when_it_is_released,
    a_server_killed_at_the_handshake_never_sees_the_message,

    observe_stops_nothing_and_records_config_evidence,
    observe_stops_nothing_and_records_catalogue_evidence,
    observe_stops_nothing_and_records_handshake_evidence,
    a_flagged_process_is_denied_the_docker_socket,
    a_process_without_evidence_may_connect_to_the_docker_socket,

    inside_of_the_uid_scope_a_shadow_server_is_stopped,
    outside_of_the_uid_scope_a_shadow_server_is_left_alone,
}

/// What a guest reports and nobody asserts would pass or fail in silence.
fn assert_nothing_else(kernel: &'static str, bpf_listed: bool) {
    let Some(boot) = boot_or_skip(kernel, bpf_listed) else { return };
    let unknown: Vec<_> = boot.results.iter().filter(|(name, _)| !CHECKS.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "reported and not asserted: {unknown:?}\nlog: {}", boot.log.display());
}

mod everything_that_the_guest_reports_is_asserted {
    #[test]
    fn on_6_1_with_bpf_listed() {
        super::assert_nothing_else("6.1", true);
    }
    #[test]
    fn on_6_1_without() {
        super::assert_nothing_else("6.1", false);
    }
    #[test]
    fn on_6_12_with_bpf_listed() {
        super::assert_nothing_else("6.12", true);
    }
    #[test]
    fn on_6_12_without() {
        super::assert_nothing_else("6.12", false);
    }
}
