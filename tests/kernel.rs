//! The kernel side on real kernels: {Debian 6.1, 6.12} x {`bpf` in the LSM list, not} in QEMU, and this host's own.
//!
//! Each kernel runs every scenario (`src/guest/`) once; each test here asserts one of them on one kernel.
//! `cargo xtask qemu 6.12 lsm NAME` and `cargo xtask qemu host NAME` run one scenario and show everything.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use lazaret_tests::bed::{self, Property};
use lazaret_tests::qemu::{self, BedError, Boot, Machine};
use lazaret_tests::{bed_gaps, bed_table};

const HOST: Machine = Machine::HOST;
const OLD_LSM: Machine = Machine { kernel: "6.1", bpf_listed: true, docker: false };
const OLD: Machine = Machine { kernel: "6.1", bpf_listed: false, docker: false };
const NEW_LSM: Machine = Machine { kernel: "6.12", bpf_listed: true, docker: false };
const NEW: Machine = Machine { kernel: "6.12", bpf_listed: false, docker: false };

/// Guests at a time: an emulator keeps one processor busy. The host's own run has the machine for itself.
static FREE: (Mutex<usize>, Condvar) = (Mutex::new(2), Condvar::new());

fn boot(machine: Machine) -> &'static Result<Boot, BedError> {
    static INITRAMFS: OnceLock<Result<std::path::PathBuf, BedError>> = OnceLock::new();
    static BOOTS: [OnceLock<Result<Boot, BedError>>; 5] = [const { OnceLock::new() }; 5];
    let slot = [HOST, OLD_LSM, OLD, NEW_LSM, NEW].iter().position(|one| *one == machine).expect("it is one of these");
    BOOTS[slot].get_or_init(|| {
        let initramfs = INITRAMFS.get_or_init(|| qemu::initramfs(false)).as_ref().map_err(BedError::clone)?;
        let (free, freed) = &FREE;
        let wanted = if machine == HOST { 2 } else { 1 };
        let mut count = freed
            .wait_while(free.lock().unwrap_or_else(PoisonError::into_inner), |count| *count < wanted)
            .unwrap_or_else(PoisonError::into_inner);
        *count -= wanted;
        drop(count);
        let boot = qemu::boot(machine, initramfs, &[], |_| {});
        *free.lock().unwrap_or_else(PoisonError::into_inner) += wanted;
        freed.notify_all();
        let boot = boot?;
        bed::record("kernel", machine, &boot, PROPERTIES)?;
        Ok(boot)
    })
}

/// One line per property: its name, and behind `=>` the evasions (numbers of `bed_table::EVASIONS`) that it shows to
/// be stopped, or whose benign `twin` it shows to be left alone.
macro_rules! on_every_kernel {
    ($($property:ident $(=> $($kind:ident)? [$($number:literal),*])?,)*) => {
        const PROPERTIES: &[Property] = &[$(Property {
            name: stringify!($property),
            evasions: &[$($($number),*)?],
            twin: !concat!($($(stringify!($kind))?)?).is_empty(),
        }),*];

        $(mod $property {
            use super::{HOST, NEW, NEW_LSM, OLD, OLD_LSM, bed, boot};
            const NAME: &str = stringify!($property);
            #[test]
            fn on_6_1_with_bpf_listed() {
                bed::assert_holds(OLD_LSM, boot(OLD_LSM), NAME);
            }
            #[test]
            fn on_6_1_without() {
                bed::assert_holds(OLD, boot(OLD), NAME);
            }
            #[test]
            fn on_6_12_with_bpf_listed() {
                bed::assert_holds(NEW_LSM, boot(NEW_LSM), NAME);
            }
            #[test]
            fn on_6_12_without() {
                bed::assert_holds(NEW, boot(NEW), NAME);
            }
            #[test]
            fn on_the_host() {
                bed::assert_holds(HOST, boot(HOST), NAME);
            }
        })*
    };
}

on_every_kernel! {
    without_a_daemon_every_server_answers,
    without_a_daemon_every_detour_leads_to_an_answer,
    without_a_daemon_every_way_of_reading_gets_the_message,
    without_a_daemon_every_shape_of_stdio_carries_the_message,

    status_names_the_backend_that_this_kernel_can_carry,
    every_active_hook_was_proven_by_firing_it,
    a_server_that_a_client_config_names_never_runs_an_instruction,
    a_record_says_what_ran_where_and_who_started_it,
    a_configured_command_without_a_path_is_the_one_that_path_finds,
    the_program_of_a_configured_server_with_other_arguments_is_left_alone,
    a_config_entry_written_while_the_daemon_runs_is_learned,
    an_entry_in_a_file_that_is_renamed_into_place_is_known_before_a_client_starts,
    an_entry_in_a_file_that_is_written_in_place_is_known_before_a_client_starts,
    an_entry_in_a_file_behind_a_link_is_learned,
    an_entry_in_a_directory_that_is_made_later_is_learned,
    a_file_that_cannot_be_parsed_forgets_nothing,
    a_rewritten_entry_names_the_process_that_wrote_it_and_its_parents,
    a_start_that_the_catalogue_names_never_runs_an_instruction,
    a_launcher_that_is_a_script_is_recognised_by_what_its_interpreter_runs => [3],
    installing_and_naming_a_server_package_is_left_alone => twin [6, 8],
    every_kind_of_launch_in_the_catalogue_is_stopped,
    launchers_at_honest_work_are_left_alone => twin [2, 17],
    without_a_daemon_every_way_of_starting_a_program_leads_to_it,
    without_a_daemon_what_is_put_into_the_connector_reads_what_the_client_sends,
    a_program_in_memory_is_known_by_its_argv => [4],
    a_program_that_is_executed_by_a_path_descriptor_is_known => [5],
    a_program_that_is_executed_through_proc_is_known => [5],
    a_program_that_is_executed_below_a_directory_descriptor_is_known => [5],
    a_program_whose_file_has_gone_is_known => [4, 5],
    a_lie_in_the_first_word_does_not_hide_the_program => [8],
    a_thread_that_executes_it_does_not_hide_the_program => [13],
    a_thread_whose_leader_has_gone_does_not_hide_the_program => [13],
    posix_spawn_does_not_hide_the_program => [12],
    vfork_does_not_hide_the_program => [12],
    another_parent_does_not_hide_the_program => [12],
    a_daemonised_parent_does_not_hide_the_program => [19],
    env_before_it_does_not_hide_the_program => [2],
    taskset_before_it_does_not_hide_the_program => [2],
    timeout_before_it_does_not_hide_the_program => [2],
    setpriv_before_it_does_not_hide_the_program => [2],
    setsid_before_it_does_not_hide_the_program => [12],
    a_shell_before_it_does_not_hide_the_program => [2],
    a_shell_that_reads_its_script_does_not_hide_the_program => [2],
    xargs_before_it_does_not_hide_the_program => [2],
    a_mount_namespace_does_not_hide_the_program => [20],
    a_pid_namespace_does_not_hide_the_program => [20],
    a_user_namespace_does_not_hide_the_program => [20],
    another_root_does_not_hide_the_program => [20],
    nsenter_does_not_hide_the_program => [20],
    a_link_of_another_name_does_not_hide_the_program => [6],
    a_32_bit_program_is_a_program => [25],
    the_same_ways_lead_to_other_programs => twin [2, 4, 5, 6, 8, 12, 13, 19, 20],
    the_interpreters_of_a_script_do_not_hide_it => [3],
    a_script_that_is_only_told_the_name_of_a_server_is_left_alone => twin [3],
    long_arguments_do_not_hide_the_program,
    an_argument_that_another_thread_rewrites_is_judged_as_the_program_gets_it => [7],
    an_entry_of_a_config_that_says_nothing_stops_nobody,
    a_users_config_counts_for_that_user_and_nobody_else,
    a_registered_interpreter_does_not_hide_the_program => [25],
    a_registered_interpreter_may_run_other_programs => twin [25],
    a_set_uid_program_does_not_hide_the_program => [19],
    a_set_uid_program_may_start_other_programs => twin [19],
    an_exec_that_is_only_checked_gives_no_approval => [28],
    asking_whether_a_server_may_be_executed_is_left_alone => twin [28],
    the_connector_answers_whoever_starts_it => twin [15],
    a_harmless_variable_of_the_loader_does_not_stop_the_connector => twin [15],
    a_preloaded_library_in_the_connector_reads_nothing => [15],
    an_audit_library_in_the_connector_reads_nothing => [15],
    a_traced_connector_reads_nothing => [15],
    a_connector_in_a_user_namespace_reads_nothing => [20],
    the_loader_with_the_connector_reads_nothing => [1],
    whoever_attaches_to_the_connector_makes_it_an_ordinary_program => [15],
    nobody_but_root_opens_the_connectors_memory => [15],
    a_copy_of_the_connector_is_not_the_door => [6],
    another_program_that_is_mounted_over_the_connector_is_not_the_door => [20],
    a_connector_that_is_upgraded_while_the_daemon_runs_is_the_door => twin [6],
    a_link_to_the_connector_is_the_connector => twin [6],
    a_shadow_server_unknown_to_the_exec_rules_is_killed_before_it_reads_initialize,
    a_shadow_server_on_a_socket_pair_is_killed_before_it_reads_initialize => [26],
    receiving_from_a_socket_pair_is_reading => [11],
    reading_byte_by_byte_does_not_hide_the_handshake => [27],
    reading_in_pieces_does_not_hide_the_handshake => [11, 27],
    the_order_of_members_does_not_hide_the_handshake => [27],
    a_string_id_does_not_hide_the_handshake => [27],
    white_space_does_not_hide_the_handshake => [27],
    escapes_in_member_names_do_not_hide_the_handshake => [27],
    a_long_message_does_not_hide_the_handshake => [27],
    a_message_before_it_does_not_hide_the_handshake => [27],
    a_content_length_frame_does_not_hide_the_handshake => [27],
    a_discover_request_is_a_handshake => [27],
    a_tools_list_that_opens_a_session_is_a_handshake => [27],
    a_text_tool_in_between_does_not_hide_the_handshake => [11],
    another_program_in_between_does_not_hide_the_handshake => [11],
    a_text_tool_that_rewrites_the_message_gets_none => [11],
    a_text_tool_that_rewrites_another_protocol_is_left_alone => twin [11],
    a_fifo_as_stdin_does_not_hide_the_handshake => [26],
    a_message_from_the_servers_own_child_is_judged => [26],
    a_message_that_the_server_wrote_before_it_was_the_server_is_judged => [26],
    a_session_of_its_own_does_not_hide_the_handshake => [12],
    an_orphan_is_judged_as_its_parents_were => [12],
    the_loader_as_the_program_does_not_hide_the_handshake => [1],
    what_was_born_in_scope_stays_in_it_when_it_moves_out => [19],
    no_way_of_reading_a_pipe_hides_the_handshake => [10, 11, 27],
    no_way_of_reading_a_socket_hides_the_handshake => [10, 11, 27],
    no_shape_of_stdio_hides_the_handshake => [26],
    no_way_of_writing_hides_the_handshake => [27],
    no_shape_of_the_message_hides_the_handshake => [27],
    who_takes_a_part_of_the_message_does_not_excuse_who_takes_the_rest => [27],
    another_protocol_may_be_read_in_every_way => twin [10, 11, 26, 27],
    a_channel_inherits_nothing_from_the_one_before => twin [10, 11, 14],
    text_about_mcp_is_left_alone => twin [27],
    what_a_text_tool_takes_from_a_file_is_left_alone => twin [11, 27],
    who_looks_at_a_message_with_a_text_tool_is_left_alone => twin [11],
    who_started_a_program_may_read_what_it_prints => twin [11, 26],
    status_counts_the_runs_that_the_kernel_skipped,
    language_servers_debug_adapters_acp_and_codex_are_left_alone => twin [26, 27],
    grep_over_a_json_rpc_log_in_a_pipe_is_left_alone => twin [11, 27],
    grep_over_a_log_of_mcp_traffic_in_a_pipe_is_left_alone => twin [11, 27],
    the_connector_may_read_what_the_client_sends_it => twin [15],
    without_a_daemon_every_hand_leads_to_an_answer,
    a_channel_that_is_passed_over_a_socket_is_judged => [16],
    a_channel_that_is_taken_out_of_another_process_is_judged => [16],
    a_channel_that_is_opened_through_proc_is_judged => [5],
    a_standard_input_that_is_opened_again_is_judged => [5],
    a_child_that_executes_nothing_is_judged => [12],
    a_program_in_memory_under_a_false_name_is_judged => [4],
    a_server_that_is_cloned_into_a_cgroup_out_of_scope_is_judged => [19],
    every_hand_may_pass_another_protocol => twin [4, 5, 12, 16, 19],
    who_is_passed_the_connectors_channel_reads_nothing => [16],
    the_connector_may_read_a_channel_that_was_passed_to_it => twin [16],
    another_name_of_its_file_does_not_hide_the_handshake => [6],
    another_name_of_a_file_is_left_alone => twin [6],
    who_gets_the_pid_of_a_reader_reads_nothing => [14],
    who_gets_the_pid_of_a_reader_may_read_another_protocol => twin [14],
    a_text_tool_with_the_pid_of_another_one_is_left_alone => twin [14],
    full_maps_hide_no_handshake => [14],
    a_message_whose_mark_was_pushed_out_is_judged_when_it_is_read => [14],
    a_message_whose_mark_was_pushed_out_is_judged_when_it_is_moved => [14],
    outside_of_the_cgroup_a_shadow_server_is_left_alone,
    a_cgroup_below_the_judged_one_is_judged,
    kill_9_of_the_daemon_leaves_enforcement_on_and_a_new_daemon_takes_over => [22],
    the_kernel_guards_until_it_is_detached => [22],

    a_held_server_runs_its_first_instruction_only_when_it_is_released,
    a_held_server_that_is_killed_never_runs,
    a_server_held_at_the_handshake_on_a_pipe_answers_when_it_is_released,
    a_server_held_at_the_handshake_on_a_socket_pair_answers_when_it_is_released,
    a_server_killed_at_the_handshake_never_sees_the_message,
    a_server_that_was_released_is_held_again_the_next_time,
    a_held_server_that_its_owner_continues_stays_held,
    a_server_held_at_the_handshake_and_continued_never_sees_the_message,
    a_held_server_whose_parents_end_stays_held,
    killing_a_server_ends_what_left_its_tree => [12],
    a_held_server_is_found_again_by_a_daemon_that_lost_its_state => [22],

    a_server_that_was_running_already_is_recorded => [24],
    a_server_that_was_running_already_is_held_until_it_is_released => [24],
    a_server_that_was_running_already_is_ended => [24],
    without_a_daemon_a_storm_of_starts_leaves_its_traces,
    no_start_survives_a_storm_while_the_daemon_stands_still_and_lost_events_are_shown => [22, 23],
    no_start_survives_a_fork_bomb => [23],
    no_start_survives_a_storm_without_a_daemon => [22, 23],
    who_is_not_root_can_do_nothing_to_the_daemon => [21],
    the_daemon_is_among_the_last_to_end_when_memory_is_short,
    a_daemon_takes_over_from_another_version_without_a_gap,

    observe_stops_nothing_and_records_config_evidence,
    observe_stops_nothing_and_records_catalogue_evidence,
    observe_stops_nothing_and_records_handshake_evidence,
    a_flagged_process_is_denied_the_docker_socket => [17],
    a_thread_that_executes_another_program_stays_flagged => [13],
    a_process_without_evidence_may_connect_to_the_docker_socket => twin [17],

    below_a_client_connects_are_reported_and_left_alone,
    below_a_client_mcp_over_http_on_this_host_is_reported_and_left_alone,

    a_flagged_process_is_refused_the_engine_socket_and_lives => [17],
    a_rootless_engine_is_known_by_its_name => [17],
    a_link_to_the_engine_socket_is_the_engine_socket => [6, 17],
    a_bind_mount_of_the_engine_socket_is_the_engine_socket => [17, 20],
    a_renamed_engine_socket_is_the_engine_socket => [6, 17],
    a_relative_path_to_the_engine_socket_leads_to_the_refusal => [17],
    a_detour_through_proc_leads_to_the_refusal => [17],
    a_connect_by_io_uring_is_refused => [9],
    a_connect_by_a_polling_kernel_thread_is_refused => [9],
    outside_of_the_scope_every_way_leads_to_the_engine,
    a_refused_connect_is_recorded_with_what_it_was_for,
    a_process_without_evidence_gets_to_the_engine_in_every_way => twin [9, 17],
    a_flagged_process_is_refused_the_network_however_it_connects,
    a_process_without_evidence_gets_to_the_network,
    below_a_client_the_engine_is_refused_where_the_config_says_so => [17],
    below_a_client_a_remote_server_that_a_config_names_is_refused,
    below_a_client_other_ports_and_addresses_are_left_alone,
    below_a_client_mcp_over_http_on_this_host_is_refused,
    below_a_client_other_http_on_this_host_is_left_alone,
    mcp_over_http_of_a_process_without_evidence_is_left_alone,
    below_a_client_the_doors_own_http_is_reached,
    below_a_client_the_doors_port_elsewhere_is_refused,
    below_a_client_a_connection_from_before_the_door_is_refused,
    a_port_that_was_the_doors_is_no_door_when_the_daemon_was_killed,

    inside_of_the_uid_scope_a_shadow_server_is_stopped,
    outside_of_the_uid_scope_a_shadow_server_is_left_alone,
    who_becomes_root_stays_in_the_scope_of_the_uid,
}

/// What a guest reports and nobody asserts would pass or fail in silence.
mod everything_that_the_guest_reports_is_asserted {
    use super::{HOST, NEW, NEW_LSM, OLD, OLD_LSM, PROPERTIES, bed, boot};
    #[test]
    fn on_6_1_with_bpf_listed() {
        bed::assert_nothing_else(boot(OLD_LSM), PROPERTIES);
    }
    #[test]
    fn on_6_1_without() {
        bed::assert_nothing_else(boot(OLD), PROPERTIES);
    }
    #[test]
    fn on_6_12_with_bpf_listed() {
        bed::assert_nothing_else(boot(NEW_LSM), PROPERTIES);
    }
    #[test]
    fn on_6_12_without() {
        bed::assert_nothing_else(boot(NEW), PROPERTIES);
    }
    #[test]
    fn on_the_host() {
        bed::assert_nothing_else(boot(HOST), PROPERTIES);
    }
}

mod the_page_of_evasions {
    use super::{HOST, NEW, NEW_LSM, OLD, OLD_LSM, PROPERTIES, bed, bed_table, boot};

    #[test]
    fn has_every_evasion_and_every_twin() {
        bed_table::assert_page_is_complete();
    }

    #[test]
    fn says_what_every_kernel_shows() {
        for machine in [OLD_LSM, OLD, NEW_LSM, NEW, HOST] {
            if let Some(boot) = bed::boot_or_skip(boot(machine)) {
                bed_table::assert_page_says(machine, boot, PROPERTIES);
            }
        }
    }
}

#[test]
fn the_list_of_gaps_names_properties_that_there_are() {
    for name in bed_gaps::names() {
        assert!(PROPERTIES.iter().any(|property| property.name == name), "{name}");
    }
}

/// A promise whose test was renamed or taken out would stand there unproven.
#[test]
fn the_specification_names_properties_that_there_are() {
    let others = [include_str!("cage_in_vm.rs"), include_str!("shadow.rs")];
    let exists = |name: &str| {
        PROPERTIES.iter().any(|property| property.name == name)
            || others.iter().any(|source| source.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|w| w == name))
    };
    let is_property =
        |word: &&str| word.matches('_').count() > 2 && word.chars().all(|c| c == '_' || c.is_alphanumeric());
    let named: Vec<&str> = include_str!("../SPECIFICATION.md").split('`').filter(is_property).collect();
    assert!(named.len() > 40, "{named:?}");
    for name in named.iter().filter(|name| **name != "code_like_this") {
        assert!(exists(name), "{name}");
    }
}
