//! The `dynet` command: parses, calls the libraries, prints.
#![forbid(unsafe_code)]

mod classifier;
mod commands;
mod engine_args;
mod fault;
mod floor;
mod net_args;
mod npy;
mod progress;
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
    /// Time a network on the inference engine, layer by layer if asked.
    Bench(Box<commands::bench::Args>),
    /// Run tensors through a network.
    Infer(Box<commands::infer::Args>),
    /// List instruction sets and algorithms of the inference engine.
    Kernels(commands::kernels::Args),
    /// Train a network on images.
    Train(Box<commands::train::Args>),
    /// Measure a model on a data set: top-1, top-5, confusion matrix, each class.
    Eval(commands::eval::Args),
    /// Classify images with a model.
    Predict(commands::predict::Args),
    /// Show how correlated the feature maps and kernels of models are: a report, one model or several side by side.
    Analyze(Box<commands::analyze::Args>),
    /// Set runs side by side: accuracy, cost, milliseconds, correlation.
    Compare(Box<commands::compare::Args>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Models(args) => commands::models::run(&args),
        Command::Summary(args) => commands::summary::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Infer(args) => commands::infer::run(&args),
        Command::Kernels(args) => commands::kernels::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Predict(args) => commands::predict::run(&args),
        Command::Analyze(args) => commands::analyze::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("error: {fault}");
            fault.exit_code()
        }
    }
}
