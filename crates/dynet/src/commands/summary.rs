//! `dynet summary`: a network layer by layer, with its static twin beside it.

use std::process::ExitCode;

use dynet_net::cost::{LayerCost, Madds, NetCost};
use dynet_net::{Net, cost};

use crate::fault::{Blame, Outcome, print};
use crate::net_args::NetArgs;
use crate::table::{Table, grouped};

/// Arguments of `dynet summary`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A network of the zoo (`dynet models` lists them) or a model file.
    #[arg(value_name = "NET|MODEL")]
    net: String,
    /// Print one JSON object: params, madds, twin, layers; plain counts for one image.
    #[arg(long)]
    json: bool,
    /// Print only the totals.
    #[arg(long)]
    totals: bool,
    #[command(flatten)]
    options: NetArgs,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let net = args.options.net_or_model(&args.net)?.into_net();
    let text = if args.json {
        serde_json::to_string_pretty(&cost::summary(&net)).failure()? + "\n"
    } else {
        describe(&net, !args.totals)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(net: &Net, with_layers: bool) -> String {
    let counted = cost(net);
    let mut text = format!("{}, images of {}, {} classes\n\n", net.name(), net.input(), net.classes());
    if with_layers {
        text += &layers(&counted);
        text.push('\n');
    }
    text += &totals(&counted, net.is_dynamic().then(|| cost(&net.twin())).as_ref());
    text += "\nMAdds are multiply-adds of one image; one is two floating-point operations. M = 10^6, Mi = 2^20.\n";
    text
}

fn layers(cost: &NetCost) -> String {
    let mut table = Table::new(&["<layer", "<kind", "<output", ">K", ">parameters", ">MAdds", ">fusion"]);
    for LayerCost { name, kind, output, experts, params, madds } in &cost.layers {
        let own = madds.convolutions + madds.classifier + madds.predictors;
        let k = if *experts > 1 { experts.to_string() } else { String::new() };
        let or_blank = |n: u64| if n > 0 { grouped(n) } else { String::new() };
        table.row([
            name,
            *kind,
            &output.to_string(),
            &k,
            &grouped(*params),
            &or_blank(own),
            &or_blank(madds.fusion),
        ]);
    }
    table.draw()
}

/// One column for the net, one for its twin where it has one, and the cut.
fn totals(cost: &NetCost, twin: Option<&NetCost>) -> String {
    let mut table = match twin {
        Some(_) => Table::new(&["<total", ">dynamic", "", ">static twin", "", ">ratio"]),
        None => Table::new(&["<total", ">static", ""]),
    };
    table.row(row("parameters", cost, twin, |c| c.params, false));
    type Count = fn(&Madds) -> u64;
    let lines: [(&str, Count); 7] = [
        ("MAdds of convolutions", |m| m.convolutions),
        ("      of the classifier", |m| m.classifier),
        ("      of predictors", |m| m.predictors),
        ("      of fusing kernels", |m| m.fusion),
        ("      all, kernels fused", Madds::fused_total),
        ("      convolutions, mixed form", |m| m.mixed_convolutions),
        ("      all, mixed form", Madds::mixed_total),
    ];
    let shown = if twin.is_some() { lines.len() } else { 2 };
    for (title, count) in &lines[..shown] {
        table.row(row(title, cost, twin, |c| count(&c.madds), true));
    }
    if twin.is_none() {
        table.row(row("      all", cost, twin, |c| c.madds.fused_total(), true));
    }
    table.draw()
}

fn row(
    title: &str,
    cost: &NetCost,
    twin: Option<&NetCost>,
    count: impl Fn(&NetCost) -> u64,
    is_madds: bool,
) -> Vec<String> {
    let mut cells = vec![title.to_owned()];
    for c in [Some(cost), twin].into_iter().flatten() {
        let n = count(c);
        cells.push(grouped(n));
        let units = || format!("= {:.1} M = {:.1} Mi", n as f64 / 1e6, n as f64 / f64::from(1 << 20));
        cells.push(if is_madds { units() } else { String::new() });
    }
    if let Some(twin) = twin
        && count(twin) > 0
    {
        cells.push(format!("{:.3}", count(cost) as f64 / count(twin) as f64));
    }
    cells
}
