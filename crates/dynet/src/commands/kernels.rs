//! `dynet kernels`: instruction sets and algorithms of the engine.

use std::process::ExitCode;

use dynet_engine::Isa;

use crate::fault::{Outcome, print};
use crate::table::Table;

/// Arguments of `dynet kernels`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What `dynet bench --layers` names, and what it is for.
const ALGORITHMS: [[&str; 3]; 8] = [
    ["1x1 product", "pixels times packed kernels", "1x1 convolutions of stride 1"],
    ["1x1 fused", "the same, kernels fused a panel at a time", "dynamic ones"],
    ["implicit product", "the same through a table of pixels", "all other dense convolutions, wide groups"],
    ["implicit fused", "the same, kernels fused a panel at a time", "dynamic ones"],
    ["sliding window", "pixels in registers, a window over them", "depthwise convolutions, narrow groups"],
    ["window fused", "the same, kernels fused a panel at a time", "dynamic ones"],
    ["matrix-vector", "packed weights, images as pixels", "predictors, classifiers, squeeze-and-excitation"],
    ["pool (sums)", "sums that the map's maker has added up", "predictors, squeeze-and-excitation"],
];

pub(crate) fn run(_args: &Args) -> Outcome {
    let mut sets = Table::new(&["<instruction set", ">lanes", ">panel", "<"]);
    for isa in Isa::available() {
        let chosen = if isa == Isa::best() { "taken unless --isa or DYNET_ISA says otherwise" } else { "" };
        sets.row([isa.name(), &isa.lanes().to_string(), &isa.nr().to_string(), chosen]);
    }
    let mut algorithms = Table::new(&["<algorithm", "<how", "<for"]);
    ALGORITHMS.iter().for_each(|row| algorithms.row(*row));
    let note = "\nA panel is the block of output channels that is fused and multiplied at once. Every algorithm runs on\n\
                every instruction set; fixed kernels are f32, bf16 or int8.\n";
    print(&format!("{}\n{}{note}", sets.draw(), algorithms.draw()))?;
    Ok(ExitCode::SUCCESS)
}
