//! The program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    signpost::cli::Cli::parse().run()
}
