//! The program `consilium-agent`; everything is in the library.

#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    consilium_io::memory::return_what_is_freed();
    consilium_agent::cli::main(std::env::args_os())
}
