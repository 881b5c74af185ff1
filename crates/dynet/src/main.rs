//! The `dynet` command.
fn main() {}
