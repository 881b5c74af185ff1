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

pub(crate) fn run(root: &Path) -> Result<()> {
    eprintln!("$ cargo xtask tidy");
    crate::tidy::run(root)?;
    for Step { command, environment } in STEPS {
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
