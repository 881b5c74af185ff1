//! `dynet models`: the zoo.

use std::process::ExitCode;

use dynet_net::{cost, zoo};

use crate::fault::{Blame, Outcome, print};
use crate::table::{Table, grouped};

/// Arguments of `dynet models`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if args.json {
        let text = serde_json::to_string_pretty(zoo::models()).failure()?;
        print(&(text + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["<name", ">parameters", ">MAdds (10^6)", "<what it is", "<source"]);
    for model in zoo::models() {
        let net = zoo::build(model.name, &Default::default()).failure()?;
        let cost = cost(&net);
        let madds = format!("{:.1}", cost.madds.fused_total() as f64 / 1e6);
        table.row([model.name, &grouped(cost.params), &madds, model.description, model.source]);
    }
    let note = "\n1,000 classes, 224 x 224 images; MAdds of one image with predictors and fusion. \
                `--dynamic K` makes any static net dynamic.\n";
    print(&(table.draw() + note))?;
    Ok(ExitCode::SUCCESS)
}
