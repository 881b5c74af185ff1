//! Automation of the repository: `cargo xtask ci`, `cargo xtask tidy`, `cargo xtask check-unsafe`.
#![forbid(unsafe_code)]

mod check_unsafe;
mod ci;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  ci            everything that must pass before a change lands, cheapest first
  tidy          the invariants of ARCHITECTURE.md that a program can hold
  check-unsafe  kernels' and engine's tests with an address sanitizer, debug assertions and overflow checks";

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let result = match command.as_deref() {
        Some("ci") => ci::run(&root()),
        Some("tidy") => tidy::run(&root()),
        Some("check-unsafe") => check_unsafe::run(&root()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root: the folder above this crate.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root").to_owned()
}
