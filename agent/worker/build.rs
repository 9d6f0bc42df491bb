//! Where the program finds libtorch when it runs: the installed layout first, then the libtorch it
//! was built against (`LIBTORCH`, which .cargo/config.toml points at `.libtorch/torch`). And the few
//! lines of C++ that ask libtorch how it was built.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// From `bin/` of an installation, see deploy/xtask/src/dist.rs.
const INSTALLED: &str = "$ORIGIN/../lib/consilium-agent/torch/lib";

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/device/show_config.cpp");
    let lib = libtorch().join("lib");
    if !lib.join("libtorch_cpu.so").is_file() {
        println!(
            "cargo:error={} has no libtorch_cpu.so: run `cargo xtask libtorch`, or export LIBTORCH \
             with the folder of your own libtorch",
            lib.display()
        );
        return ExitCode::FAILURE;
    }
    for folder in [INSTALLED.to_owned(), lib.display().to_string()] {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/device/show_config.cpp")
        .compile("consilium_show_config");
    ExitCode::SUCCESS
}

/// The folder that holds `lib/`, absolute.
fn libtorch() -> PathBuf {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..");
    let exported = env::var_os("LIBTORCH").filter(|value| !value.is_empty());
    let folder = exported.map_or_else(|| root.join(".libtorch/torch"), PathBuf::from);
    // Not there: the caller says so with the path as it was given.
    folder.canonicalize().unwrap_or(folder)
}
