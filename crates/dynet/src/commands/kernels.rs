//! `dynet kernels`: instruction sets and kernels of the engine.

use std::process::ExitCode;

use dynet_engine::{Isa, kernels};

use crate::fault::{Outcome, print};
use crate::table::Table;

/// Arguments of `dynet kernels`.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Outcome {
    let mut sets = Table::new(&["<instruction set", ">lanes", ">panel", "<"]);
    for isa in Isa::available() {
        let chosen = if isa == Isa::best() { "taken unless --isa or DYNET_ISA says otherwise" } else { "" };
        sets.row([isa.name(), &isa.lanes().to_string(), &isa.nr().to_string(), chosen]);
    }
    let mut table = Table::new(&["<kernel", "<what it computes"]);
    kernels().for_each(|kernel| table.row([kernel.to_string(), kernel.what.to_owned()]));
    let bf16 = match Isa::best().has_bf16_tiles() {
        true => {
            "Products of bfloat16 (--precision bf16) run on AMX with avx512, on f32 multiply-adds with the others."
        }
        false => {
            "Products of bfloat16 (--precision bf16) run on f32 multiply-adds: there is no AMX here, or no permission to use it."
        }
    };
    let note = "\nA panel is the block of output channels that is fused and multiplied at once.\n";
    print(&format!("{}\n{bf16}\n\n{}{note}", sets.draw(), table.draw()))?;
    Ok(ExitCode::SUCCESS)
}
