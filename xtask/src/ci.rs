//! The gate: formatting, invariants, lints, documentation, devices, tests.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The README's second command, word for word; `tidy` checks that it stands there.
pub(crate) const TEST_COMMAND: &str = "cargo test --release --workspace";

/// `cuda` and `rocm` translate kernels with LLVM, which the build scripts of its bindings download. Nothing is linked
/// here, so they are told what the builders of docs.rs tell them: to leave it. Neither needs its toolkit: CUDA and HIP are
/// loaded at run time.
const WITHOUT_LLVM: &[(&str, &str)] = &[("DOCS_RS", "1")];

/// A command, and what it finds in its environment.
struct Step {
    command: &'static str,
    environment: &'static [(&'static str, &'static str)],
}

const fn step(command: &'static str) -> Step {
    Step { command, environment: &[] }
}

/// Cheapest first, so that a local run fails quickly. Lints and documentation build in the release profile too: it
/// shares what build scripts and macros are made of with the tests.
///
/// `metal` is checked on every system: elsewhere than on Apple's its driver is left out by itself, and no device is found.
const STEPS: [Step; 9] = [
    step("cargo fmt --all --check"),
    step("cargo clippy --release --workspace --all-targets -- -D warnings"),
    step("cargo doc --release --workspace --no-deps"),
    step("cargo clippy --release --package dynet --features wgpu -- -D warnings"),
    step("cargo clippy --release --package dynet --features metal -- -D warnings"),
    Step {
        command: "cargo clippy --release --package dynet --features cuda -- -D warnings",
        environment: WITHOUT_LLVM,
    },
    Step {
        command: "cargo clippy --release --package dynet --features rocm -- -D warnings",
        environment: WITHOUT_LLVM,
    },
    step("cargo test --profile device --package dynet-nn --features wgpu --test wgpu -- --nocapture"),
    step(TEST_COMMAND),
];

/// A CPU family of which no instruction set is known here, so that kernels are plain Rust. Checked, not run, where its standard library
/// is: `rustup target add aarch64-unknown-linux-gnu`.
const OTHER_FAMILY: &str = "aarch64-unknown-linux-gnu";
const OTHER_FAMILY_STEP: Step = step(
    "cargo clippy --release --package dynet-kernels --package dynet-engine --target aarch64-unknown-linux-gnu -- -D warnings",
);

/// Whether the standard library of a target is installed.
fn has_target(target: &str) -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|o| Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
}

pub(crate) fn run(root: &Path) -> Result<()> {
    eprintln!("$ cargo xtask tidy");
    crate::tidy::run(root)?;
    let other = has_target(OTHER_FAMILY).then_some(OTHER_FAMILY_STEP);
    if other.is_none() {
        eprintln!("skipped: kernels for {OTHER_FAMILY}, whose standard library is not installed");
    }
    for Step { command, environment } in other.into_iter().chain(STEPS) {
        eprintln!("$ {command}");
        let start = Instant::now();
        let mut words = command.split(' ');
        let program = words.next().expect("a step has words");
        let status = Command::new(program)
            .args(words)
            .current_dir(root)
            .env("RUSTDOCFLAGS", "-D warnings")
            .envs(environment.iter().copied())
            .status()
            .with_context(|| format!("{program} does not start"))?;
        if !status.success() {
            bail!("`{command}` failed");
        }
        eprintln!("  {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
