//! What a backend cannot do by design, and what cannot be tried on a host. The only place that excuses a check.
//!
//! Invariant: the lists only shrink. A check of a gap that passes fails its test until it is taken out here
//! (`bed::judge`).

/// Properties that the backend `tracepoint` does not keep, each with the reason.
const TRACEPOINT: &[(&str, &[&str])] = &[
    (
        "an engine's socket is known by the name that is connected to; a server behind another name is caught at its handshake",
        &[
            "a_link_to_the_engine_socket_is_the_engine_socket",
            "a_bind_mount_of_the_engine_socket_is_the_engine_socket",
            "a_renamed_engine_socket_is_the_engine_socket",
            "below_a_client_the_engine_is_refused_where_the_config_says_so",
        ],
    ),
    (
        "datagrams without a connect are not seen without LSM or tracing programs",
        &["a_flagged_process_is_refused_the_network_however_it_connects"],
    ),
    (
        "what is sent over loopback is not read without LSM or tracing programs",
        &[
            "below_a_client_mcp_over_http_on_this_host_is_refused",
            "below_a_client_mcp_over_http_on_this_host_is_reported_and_left_alone",
            "below_a_client_the_doors_port_elsewhere_is_refused",
            "below_a_client_a_connection_from_before_the_door_is_refused",
            "a_port_that_was_the_doors_is_no_door_when_the_daemon_was_killed",
        ],
    ),
    ("terminals are only looked at below an MCP client", &["no_shape_of_stdio_hides_the_handshake"]),
];

/// As [`TRACEPOINT`], where it is a race who comes first: the property holds now and then, and is never counted on.
const TRACEPOINT_RACES: &[(&str, &[&str])] = &[
    (
        "a new candidate waits 20 ms for the programs that see a handshake in a pipe; a machine under load may take longer",
        &["no_way_of_reading_a_pipe_hides_the_handshake", "no_way_of_writing_hides_the_handshake"],
    ),
    (
        "who attaches to the connector in its first milliseconds, before that has made itself unreadable, is not noticed",
        &["whoever_attaches_to_the_connector_makes_it_an_ordinary_program"],
    ),
    (
        "what a socket was sent is looked at when it stands there: who takes all of it away, byte by byte or by splice, before that is done is not seen",
        &["no_way_of_reading_a_socket_hides_the_handshake", "no_shape_of_the_message_hides_the_handshake"],
    ),
];

/// Properties that no backend keeps.
const EVERYWHERE: &[(&str, &[&str])] = &[(
    "who has messages stand in more than 8,000 channels at once pushes the oldest marks out: a message is then judged when it is read, and not when it is spliced",
    &["a_message_whose_mark_was_pushed_out_is_judged_when_it_is_moved"],
)];

/// Properties whose session has no place among other people's processes.
const NOT_ON_A_HOST: &[(&str, &[&str])] = &[(
    "a daemon that judges a uid would judge what is not this run's",
    &[
        "inside_of_the_uid_scope_a_shadow_server_is_stopped",
        "outside_of_the_uid_scope_a_shadow_server_is_left_alone",
        "who_becomes_root_stays_in_the_scope_of_the_uid",
    ],
)];

/// Why `backend` does not keep `property`.
pub fn of(backend: &str, property: &str) -> Option<&'static str> {
    let here = all().find(|(of, name, _)| *of == backend && *name == property).map(|(_, _, reason)| reason);
    here.or_else(|| flat(EVERYWHERE).find(|(name, _)| *name == property).map(|(_, reason)| reason))
}

/// Backend, property and reason of every gap.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    flat(TRACEPOINT).chain(flat(TRACEPOINT_RACES)).map(|(name, reason)| ("tracepoint", name, reason))
}

/// A gap that nothing follows from if the check passes.
pub fn is_a_race(property: &str) -> bool {
    flat(TRACEPOINT_RACES).chain(flat(EVERYWHERE)).any(|(name, _)| name == property)
}

pub fn not_on_a_host(property: &str) -> Option<&'static str> {
    flat(NOT_ON_A_HOST).find(|(name, _)| *name == property).map(|(_, reason)| reason)
}

/// Every property that is named here.
pub fn names() -> impl Iterator<Item = &'static str> {
    let gaps = flat(TRACEPOINT).chain(flat(TRACEPOINT_RACES)).chain(flat(EVERYWHERE));
    gaps.chain(flat(NOT_ON_A_HOST)).map(|(name, _)| name)
}

fn flat(
    list: &'static [(&'static str, &'static [&'static str])],
) -> impl Iterator<Item = (&'static str, &'static str)> {
    list.iter().flat_map(|(reason, names)| names.iter().map(move |name| (*name, *reason)))
}
