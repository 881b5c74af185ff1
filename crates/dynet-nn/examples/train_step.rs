//! Times a training step of a net of the zoo; `dynet bench --train` with nothing else to build.
//!
//! `cargo run --release -p dynet-nn --example train_step -- NET BATCH SIZE K [THREADS] [burn]`; K = 0 is the static net.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;

use dynet_net::DynamicOptions;
use dynet_net::zoo::{self, ZooOptions};
use dynet_nn::{DeviceName, set_threads, time_steps};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize, default: &str| args.get(at).cloned().unwrap_or_else(|| default.to_owned());
    let (name, batch, size) = (arg(0, "resnet18"), arg(1, "32").parse()?, arg(2, "64").parse()?);
    let experts = arg(3, "0").parse()?;
    set_threads(arg(4, "2").parse()?);
    let dynamic = (experts > 0).then(|| DynamicOptions { experts, ..DynamicOptions::default() });
    let net = zoo::build(&name, &ZooOptions { size: [size, size], dynamic, ..ZooOptions::default() })?;
    let [all, data, forward, backward, optimizer] =
        time_steps(&net, batch, 5, DeviceName::default(), arg(5, "") == "burn")?.medians_ms();
    println!("{name}, batch {batch}, {size} x {size}, K = {experts}: {all:.1} ms");
    println!("data {data:.1}, forward {forward:.1}, backward {backward:.1}, optimizer {optimizer:.1} ms");
    println!("{{\"median_ms\": {all}}}");
    Ok(())
}
