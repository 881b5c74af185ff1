//! The tests of the crates that hold and call `unsafe`, with an address sanitizer and all of the compiler's checks.
//!
//! Miri does not know the vector instructions; the sanitizer sees every load and store of them. It comes with the stable
//! toolchain but its switch is unstable, hence `RUSTC_BOOTSTRAP`. Not part of the gate: it builds everything anew.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn run(root: &Path) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("check-unsafe needs {TARGET}");
    }
    let packages = ["-p", "dynet-kernels", "-p", "dynet-engine"];
    let status = Command::new("cargo")
        .args(["test", "--release", "--lib", "--tests", "--target", TARGET, "--target-dir", "target/checked"])
        .args(packages)
        .current_dir(root)
        // Optimised as releases are, the kernels were still compiling after 23 minutes.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address -Cdebug-assertions -Coverflow-checks")
        .status()
        .context("cargo does not start")?;
    if !status.success() {
        bail!("the checked tests failed");
    }
    Ok(())
}
