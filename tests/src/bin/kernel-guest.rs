//! Runs the kernel scenarios inside a test guest; started by its init.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [word, rest @ ..] if word == "tamper" => lazaret_tests::guest::tamper::run(rest),
        _ => lazaret_tests::guest::run(),
    }
}
