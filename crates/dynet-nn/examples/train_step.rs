//! Times a training step: forward, cross entropy, backward, SGD with momentum, on random images. Ends with a line of JSON.
//!
//! `cargo run --release -p dynet-nn --example train_step -- NET BATCH SIZE K [THREADS] [burn]`; K = 0 is the static net.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Distribution, Tensor};
use dynet_net::DynamicOptions;
use dynet_net::zoo::{self, ZooOptions};
use dynet_nn::{NetModule, momentum_step, set_threads};

/// Steps that are timed, after two that are not.
const STEPS: usize = 5;

/// SGD with momentum.
struct Sgd<'a> {
    gradients: GradientsParams,
    velocity: &'a mut HashMap<ParamId, Tensor<1>>,
}

impl ModuleMapper for Sgd<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let len = shape.iter().product::<usize>();
        let old = self.velocity.remove(&id);
        let [value, velocity] =
            momentum_step(tensor.inner().reshape([len]), old, gradient.reshape([len]), [0.01, 0.9, 0.0]);
        self.velocity.insert(id, velocity);
        let tensor = Tensor::from_inner(value.reshape(shape)).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize, default: &str| args.get(at).cloned().unwrap_or_else(|| default.to_owned());
    let (name, batch, size) = (arg(0, "resnet18"), arg(1, "32").parse()?, arg(2, "64").parse()?);
    let experts = arg(3, "0").parse()?;
    set_threads(arg(4, "2").parse()?);
    let burn = arg(5, "") == "burn";
    let dynamic = (experts > 0).then(|| DynamicOptions { experts, ..DynamicOptions::default() });
    let options = ZooOptions { size: [size, size], dynamic, ..ZooOptions::default() };
    let net = zoo::build(&name, &options)?;
    let device = Device::flex().autodiff();
    let mut module = NetModule::init(&net, 0, &device);
    let mut velocity = HashMap::new();
    let mut times = [const { Vec::new() }; 4];
    let images = Tensor::<4>::random([batch, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
    let targets = Tensor::<2>::random([batch, 1000], Distribution::Bernoulli(0.001), &device);
    for step in 0..STEPS + 2 {
        let start = Instant::now();
        let logits =
            if burn { module.forward_taps(images.clone(), &[]).0 } else { module.forward(images.clone()) };
        let loss = (log_softmax(logits, 1) * targets.clone()).sum().neg() / batch as f64;
        let forward = start.elapsed();
        let gradients = GradientsParams::from_grads(loss.backward(), &module);
        let backward = start.elapsed() - forward;
        module = module.map(&mut Sgd { gradients, velocity: &mut velocity });
        let all = start.elapsed();
        if step >= 2 {
            let shares = [all, forward, backward, all - forward - backward];
            times.iter_mut().zip(shares).for_each(|(list, t)| list.push(t));
        }
    }
    let [all, forward, backward, update] = times.map(median);
    println!("{name}, batch {batch}, {size} x {size}, K = {experts}: {all:.1} ms");
    println!("forward {forward:.1}, backward {backward:.1}, update {update:.1} ms");
    println!("{{\"net\": \"{name}\", \"experts\": {experts}, \"median_ms\": {all}}}");
    Ok(())
}

/// In milliseconds.
fn median(mut list: Vec<Duration>) -> f64 {
    list.sort();
    list[list.len() / 2].as_secs_f64() * 1e3
}
