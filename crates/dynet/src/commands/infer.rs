//! `dynet infer`: tensors through a net.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use dynet_engine::{Plan, Session};

use crate::engine_args::{EngineArgs, WeightArgs};
use crate::fault::{Blame, Fault, Outcome, print};
use crate::net_args::NetArgs;
use crate::npy::Array;

/// Arguments of `dynet infer`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model file, or a network of the zoo.
    #[arg(value_name = "MODEL|NET")]
    net: String,
    /// Images [n, c, h, w] of f32, preprocessed.
    #[arg(long, value_name = "X.npy")]
    input: PathBuf,
    /// Receives the logits [n, classes].
    #[arg(long, value_name = "Y.npy")]
    output: PathBuf,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    options: NetArgs,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let images = Array::read(&args.input)?;
    let (n, size) = image_size(&images)?;
    let (net, weights) = args.weights.load(&args.net, &args.options, Some(size))?;
    check_channels(&images, net.input().c)?;
    let plan = Plan::compile(&net, &weights, &args.engine.options()?).input()?;
    drop(weights);
    let mut session = Session::new(Arc::new(plan), args.engine.threads()?).failure()?;
    let logits = session.run(&images.data).input()?;
    Array { shape: vec![n, net.classes()], data: logits.to_vec() }.write(&args.output)?;
    print(&format!("{n} x {} logits to {}\n", net.classes(), args.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Number, height and width of images `[n, c, h, w]`.
///
/// # Errors
/// An array of another kind.
pub(crate) fn image_size(images: &Array) -> Result<(usize, [usize; 2]), Fault> {
    match images.shape[..] {
        [n, _, h, w] if !images.data.is_empty() => Ok((n, [h, w])),
        _ => {
            Err(Fault::Input(format!("--input: expected images [n, c, h, w], got shape {:?}", images.shape)))
        }
    }
}

/// # Errors
/// Images of another number of channels than the net takes.
pub(crate) fn check_channels(images: &Array, channels: usize) -> Result<(), Fault> {
    if images.shape[1] == channels {
        return Ok(());
    }
    Err(Fault::Input(format!("--input: expected {channels} channels, got {}", images.shape[1])))
}
