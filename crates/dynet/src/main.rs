//! The `dynet` command: parses, calls the libraries, prints.
#![forbid(unsafe_code)]

mod commands;
mod fault;
mod net_args;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Train, analyse and deploy convolutional networks with dynamic convolutions.
#[derive(Parser)]
#[command(name = "dynet", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the networks of the zoo.
    Models(commands::models::Args),
    /// Print a network layer by layer: shapes, parameters, multiply-adds, its static twin beside it.
    Summary(commands::summary::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Models(args) => commands::models::run(&args),
        Command::Summary(args) => commands::summary::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("error: {fault}");
            fault.exit_code()
        }
    }
}
