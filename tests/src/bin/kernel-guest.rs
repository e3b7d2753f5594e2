//! Runs the kernel scenarios inside a test guest; started by its init.

fn main() {
    lazaret_tests::guest::run();
}
