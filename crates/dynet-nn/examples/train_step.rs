//! Times a training step of a narrow net, static and dynamic: forward, backward and an SGD step on random images.
//!
//! `cargo run --release -p dynet-nn --example train_step -- [NET] [WIDTH] [BATCH] [K]`
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::time::Instant;

use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Tensor};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{DynamicOptions, Net};
use dynet_nn::{Form, NetModule};

/// Steps that are timed, after two that are not.
const STEPS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize, default: &str| args.get(at).cloned().unwrap_or_else(|| default.to_owned());
    let (name, batch) = (arg(0, "resnet18"), arg(2, "64").parse()?);
    let options = ZooOptions {
        width: arg(1, "0.25").parse()?,
        classes: 10,
        channels: 1,
        size: [28, 28],
        small_stem: true,
        dynamic: None,
    };
    let net = zoo::build(&name, &options)?.twin();
    let dynamic = net.to_dynamic(&DynamicOptions { experts: arg(3, "4").parse()?, ..Default::default() })?;
    println!("{name}, width {}, 28 x 28 x 1, batch {batch}, median of {STEPS}:", options.width);
    for (label, net, form) in
        [("static", &net, None), ("mix", &dynamic, Some(Form::Mix)), ("fuse", &dynamic, Some(Form::Fuse))]
    {
        let (forward, backward) = time_step(net, form, batch);
        println!("{label:>8}: forward {forward:7.1} ms, backward and update {backward:7.1} ms");
    }
    Ok(())
}

/// Medians of the milliseconds of forward, and of backward with update.
fn time_step(net: &Net, form: Option<Form>, batch: usize) -> (f64, f64) {
    let device = Device::flex().autodiff();
    let mut module = NetModule::init(net, 0, &device);
    module.set_form(form);
    let mut optimizer = SgdConfig::new().init();
    let mut times = [Vec::new(), Vec::new()];
    for step in 0..STEPS + 2 {
        let images = Tensor::<4>::random([batch, 1, 28, 28], Distribution::Normal(0.0, 1.0), &device);
        let start = Instant::now();
        let loss = module.forward(images).square().mean();
        let forward = start.elapsed();
        let gradients = GradientsParams::from_grads(loss.backward(), &module);
        module = optimizer.step(1e-3, module, gradients);
        if step >= 2 {
            times[0].push(forward.as_secs_f64() * 1e3);
            times[1].push((start.elapsed() - forward).as_secs_f64() * 1e3);
        }
    }
    let [forward, backward] = times.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    });
    (forward, backward)
}
