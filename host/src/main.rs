//! The `alknet` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    alknet::cli::main()
}
