//! A training step on a graphics adapter gives what the CPU's gives. A software one will do: Debian's
//! mesa-vulkan-drivers brings one. Without any, the test says so and passes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails that way; one that skips says so"
)]

#[path = "common/pass.rs"]
mod pass;
#[path = "common/small_net.rs"]
mod small_net;

use std::collections::BTreeMap;

use burn::tensor::Device;
use dynet_net::{CoefActivation, Coefficients, DynamicOptions, Net};
use dynet_nn::{DeviceError, DeviceName, Form, ParamUpdate, Sgd, UpdateRule};

use crate::pass::{module_on, pass};
use crate::small_net::small_net;

/// Sums of some hundred products in another order, through four norms, over the largest value of each tensor or a
/// tenth of the largest of all. A product or a sum that is missing is off by a hundredth and more.
const TOLERANCE: f32 = 1e-4;
const BATCH: usize = 4;
const SGD: Sgd = Sgd { rate: 0.1, momentum: 0.9, nesterov: true, decay: 1e-3, scale: 0.5 };

/// Loss, gradients, and all tensors after the update, by name.
fn step(net: &Net, device: &Device, form: Option<Form>) -> BTreeMap<String, Vec<f32>> {
    let mut module = module_on(net, device);
    module.set_form(form);
    let (loss, named, gradients) = pass(&module, device, BATCH, false);
    let named = named.into_iter().map(|(name, values)| (format!("gradient of {name}"), values));
    let mut told: BTreeMap<_, _> = named.collect();
    let _ = module.update(gradients, |_| ParamUpdate { rule: UpdateRule::Sgd(SGD), state: Vec::new() });
    told.extend(module.weights().iter().map(|(name, tensor)| (name.to_owned(), tensor.data.clone())));
    told.insert("loss".into(), vec![loss]);
    told
}

fn compare(cpu: &BTreeMap<String, Vec<f32>>, other: &BTreeMap<String, Vec<f32>>, label: &str) {
    assert!(cpu.keys().eq(other.keys()), "{label}: the same tensors");
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    let gradients = cpu.iter().filter(|(name, _)| name.starts_with("gradient"));
    let floor = 0.1 * gradients.map(|(_, values)| largest(values)).fold(0.0, f32::max);
    let mut wrong = Vec::new();
    for (name, want) in cpu {
        let got = &other[name];
        assert_eq!(want.len(), got.len(), "{label}: {name}");
        let error = want.iter().zip(got).map(|(w, g)| (w - g).abs());
        let error = error.fold(0.0, |max, e| if e <= max { max } else { e }) / largest(want).max(floor);
        if error.is_nan() || error > TOLERANCE {
            wrong.push(format!("{name}: off by {error:.1e}"));
        }
    }
    assert!(wrong.is_empty(), "{label}: {wrong:#?}");
}

#[test]
fn a_training_step_on_an_adapter_is_that_of_the_cpu() {
    let name: DeviceName = "wgpu".parse().unwrap();
    let device = match name.open() {
        Ok(device) => device,
        Err(error @ DeviceError::NoAdapter { .. }) => return println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    println!("on {device:?}");
    let softmax = DynamicOptions {
        experts: 3,
        activation: CoefActivation::Softmax { temperature: 2.0 },
        dropout: 0.0,
        ..DynamicOptions::default()
    };
    let sigmoid = DynamicOptions {
        activation: CoefActivation::Sigmoid,
        coefficients: Coefficients::Kernel,
        squeeze: Some(4),
        ..softmax
    };
    for (label, options, forms) in [
        ("static", None, vec![None]),
        ("softmax", Some(&softmax), vec![None, Some(Form::Fuse)]),
        ("sigmoid", Some(&sigmoid), vec![None]),
    ] {
        let net = small_net(options);
        let cpu = step(&net, &Device::flex(), None);
        for form in forms {
            compare(&cpu, &step(&net, &device, form), &format!("{label}, {form:?}"));
        }
    }
}

#[test]
fn an_index_beyond_the_adapters_is_an_error() {
    let name: DeviceName = "wgpu:999".parse().unwrap();
    let error = name.open().unwrap_err();
    assert!(matches!(error, DeviceError::Index { .. } | DeviceError::NoAdapter { .. }), "{error}");
}
