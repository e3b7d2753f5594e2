//! Writes docs/EVASIONS.md from the results of the last kernel tests: `cargo xtask evasions`.

use std::process::ExitCode;

use lazaret_tests::bed_table;
use lazaret_tests::qemu::BedError;

fn main() -> ExitCode {
    match bed_table::write() {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(BedError::Missing(why) | BedError::Broken(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
