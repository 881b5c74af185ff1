//! Invariants of the repository that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Files are to stay below about 500 lines; this is where "about" ends.
const MAX_LINES: usize = 600;
/// Largest file that may be tracked, in bytes: the built-in images need most of it.
const MAX_FILE_BYTES: u64 = 6_000_000;

/// One rule for one text file; returns what is wrong.
type Rule = fn(path: &str, text: &str) -> Vec<String>;

const RULES: [Rule; 6] = [length, module_doc, unsafe_code, isa_detection, leftovers, whitespace];

pub(crate) fn run(root: &Path) -> Result<()> {
    let mut problems = Vec::new();
    for path in tracked_files(root)? {
        let file = root.join(&path);
        let Ok(meta) = fs::metadata(&file) else { continue };
        if meta.len() > MAX_FILE_BYTES {
            problems.push(format!("{path}: {} bytes, at most {MAX_FILE_BYTES} expected", meta.len()));
        }
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for rule in RULES {
            problems.extend(rule(&path, &text).into_iter().map(|p| format!("{path}: {p}")));
        }
        if path.ends_with(".md") {
            problems.extend(dead_paths(root, &text).into_iter().map(|p| format!("{path}: {p}")));
        }
    }
    problems.extend(readme(root)?);
    problems.extend(engine_without_burn(root)?);
    problems.extend(one_build(root)?);
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    bail!("tidy: {} problems", problems.len());
}

fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git does not start")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if is_rust(path) && lines > MAX_LINES {
        return vec![format!("{lines} lines, at most {MAX_LINES} expected")];
    }
    Vec::new()
}

fn module_doc(path: &str, text: &str) -> Vec<String> {
    if is_rust(path) && !text.starts_with("//!") {
        return vec!["expected a module doc (`//!`) on the first line".into()];
    }
    Vec::new()
}

/// `unsafe` stays in dynet-kernels, and in the one test that counts allocations.
fn unsafe_code(path: &str, text: &str) -> Vec<String> {
    let is_crate_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if !is_rust(path) || path.starts_with("crates/dynet-kernels/") || !is_crate_root {
        return Vec::new();
    }
    if text.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec!["expected #![forbid(unsafe_code)]".into()]
}

/// Instruction sets are detected in one file.
fn isa_detection(path: &str, text: &str) -> Vec<String> {
    let macro_name = concat!("is_x86_feature_", "detected");
    if is_rust(path) && path != "crates/dynet-kernels/src/isa.rs" && text.contains(macro_name) {
        return vec![format!("{macro_name} belongs in crates/dynet-kernels/src/isa.rs")];
    }
    Vec::new()
}

/// Traces of unfinished work, and of one machine.
fn leftovers(path: &str, text: &str) -> Vec<String> {
    let banned = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[", "ignore"),
        concat!("```", "ignore"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    if path.ends_with(".lock") {
        return Vec::new();
    }
    banned.iter().filter(|b| text.contains(*b)).map(|b| format!("contains `{b}`")).collect()
}

fn whitespace(path: &str, text: &str) -> Vec<String> {
    if !(is_rust(path) || path.ends_with(".md") || path.ends_with(".py") || path.ends_with(".toml")) {
        return Vec::new();
    }
    let mut problems = Vec::new();
    if let Some(at) = text.lines().position(|l| l.ends_with([' ', '\t'])) {
        problems.push(format!("line {}: trailing whitespace", at + 1));
    }
    if !text.ends_with('\n') {
        problems.push("expected a newline at the end".into());
    }
    problems
}

/// Paths in backticks that begin with a folder of ours must exist.
fn dead_paths(root: &Path, text: &str) -> Vec<String> {
    let ours = ["crates/", "tools/", "bench/", "docs/", "golden/", "xtask/", ".ci/"];
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|q| ours.iter().any(|folder| q.starts_with(folder)))
        .map(|q| q.split([' ', ':', '*', '{']).next().unwrap_or(q))
        .filter(|q| !root.join(q).exists())
        .map(|q| format!("`{q}` does not exist"))
        .collect()
}

fn readme(root: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(root.join("README.md")).context("README.md")?;
    let mut problems = Vec::new();
    for command in ["cargo run --release -- train --twin", crate::ci::TEST_COMMAND] {
        if !text.lines().any(|l| l.trim() == command) {
            problems.push(format!("README.md: expected the line `{command}`"));
        }
    }
    let lines = text.lines().count();
    if lines > 200 {
        problems.push(format!("README.md: {lines} lines, at most 200 expected"));
    }
    Ok(problems)
}

/// An engineer embeds the engine without a training framework in the dependency tree.
fn engine_without_burn(root: &Path) -> Result<Vec<String>> {
    let tree = cargo_tree(root, &["--package", "dynet-engine", "--edges", "normal,build,dev"], "{p}")?;
    let banned = |line: &&String| line.starts_with("burn") || line.starts_with("dynet-nn");
    Ok(tree.iter().filter(banned).map(|l| format!("dynet-engine depends on {l}")).collect())
}

/// The README's two commands share one build: the tests ask for no other features of what the command depends on.
fn one_build(root: &Path) -> Result<Vec<String>> {
    let command = cargo_tree(root, &["--package", "dynet", "--edges", "normal,build"], "{p} [{f}]")?;
    let tests = cargo_tree(root, &["--workspace", "--edges", "normal,build,dev"], "{p} [{f}]")?;
    let other = |line: &&String| !tests.contains(*line);
    Ok(command.iter().filter(other).map(|l| format!("the tests ask for other features than {l}")).collect())
}

/// What a package depends on, a line each.
fn cargo_tree(root: &Path, packages: &[&str], format: &str) -> Result<BTreeSet<String>> {
    let output = Command::new("cargo")
        .args(["tree", "--prefix", "none", "--format", format])
        .args(packages)
        .current_dir(root)
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let cases: [(Rule, &str, &str); 6] = [
            (length, "a.rs", &"x\n".repeat(MAX_LINES + 1)),
            (module_doc, "a.rs", "fn main() {}\n"),
            (unsafe_code, "crates/dynet-net/src/lib.rs", "//! Doc.\n"),
            (isa_detection, "crates/dynet/src/main.rs", concat!("is_x86_feature_", "detected!(\"fma\")")),
            (leftovers, "a.md", concat!("FIX", "ME")),
            (whitespace, "a.md", "text \n"),
        ];
        for (rule, path, text) in cases {
            assert!(!rule(path, text).is_empty(), "nothing found in {path}: {text:.40}");
        }
    }

    #[test]
    fn a_path_in_the_documentation_must_exist() {
        let root = crate::root();
        assert_eq!(dead_paths(&root, "see `crates/nowhere/src/lib.rs`").len(), 1);
        assert!(dead_paths(&root, "see `xtask/src/tidy.rs` and `a/b`").is_empty());
    }
}
