//! The gate: formatting, invariants, lints, documentation, tests.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The README's second command, word for word; `tidy` checks that it stands there.
pub(crate) const TEST_COMMAND: &str = "cargo test --release --workspace";

/// Cheapest first, so that a local run fails quickly. Lints and documentation build in the release profile too: it
/// shares what build scripts and macros are made of with the tests.
const STEPS: [&str; 4] = [
    "cargo fmt --all --check",
    "cargo clippy --release --workspace --all-targets -- -D warnings",
    "cargo doc --release --workspace --no-deps",
    TEST_COMMAND,
];

pub(crate) fn run(root: &Path) -> Result<()> {
    eprintln!("$ cargo xtask tidy");
    crate::tidy::run(root)?;
    for step in STEPS {
        eprintln!("$ {step}");
        let start = Instant::now();
        let mut words = step.split(' ');
        let program = words.next().expect("a step has words");
        let status = Command::new(program)
            .args(words)
            .current_dir(root)
            .env("RUSTDOCFLAGS", "-D warnings")
            .status()
            .with_context(|| format!("{program} does not start"))?;
        if !status.success() {
            bail!("`{step}` failed");
        }
        eprintln!("  {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
