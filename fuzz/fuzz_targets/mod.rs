//! Every fuzz target, by name.
//!
//! A target is a file with one `fuzz_target!`, a function of bytes or of text that panics where its property does not

//! hold. `fuzz/main.rs` gives them to a fuzzer, the unit tests run each over its seeds (`agent/src/seeds.rs`).

macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:expr) => {
        pub fn run($input: &[u8]) {
            $body
        }
    };
    (|$input:ident: &str| $body:expr) => {
        pub fn run(bytes: &[u8]) {
            // Text up to the first byte that is none.
            let $input = match std::str::from_utf8(bytes) {
                Ok(text) => text,
                Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).expect("that much is text"),
            };
            $body
        }
    };
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(mod $name;)*

        /// A target's name, and what it does with an input.
        pub type Target = (&'static str, fn(&[u8]));

        pub const ALL: &[Target] = &[$((stringify!($name), $name::run)),*];
    };
}

targets! {
    address
    agent_card
    allowed_signers
    call_proof
    challenge
    client_config
    client_edit
    config
    delegation
    did_key
    egress
    envelope
    findings
    framing
    hello
    hook
    http_guard
    http_headers
    input_schema
    journal
    json
    kernel_event
    launch
    measured_file
    mirrored
    oauth
    package_report
    pin
    policy
    policy_cases
    policy_text
    remote
    rights
    search
    signed_line
    sql
    sse
    ssh_signature
    stderr
    token
    vouch_document
    www_authenticate
}
