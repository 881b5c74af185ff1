//! Every net of the zoo gives PyTorch's logits for the same weights and images.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{DynamicOptions, Net, formula};
use dynet_nn::{Form, NetModule};
use serde::Deserialize;

use crate::near::relative_error;

/// PyTorch's own f32 is up to 1e-5 from f64 on these nets (`f32_error` in the file); sums in another order may be
/// a few times that.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    size: usize,
    classes: usize,
    nets: Vec<GoldenNet>,
}

#[derive(Deserialize)]
struct GoldenNet {
    name: String,
    experts: usize,
    gain: f64,
    logits: Vec<Vec<f64>>,
}

#[test]
fn every_net_gives_the_logits_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/net_logits.json");
    let golden: Golden = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let missing: Vec<&str> = zoo::models().iter().map(|info| info.name).filter(|n| !golden.has(n)).collect();
    assert!(missing.is_empty(), "no golden logits of {missing:?}");
    let wrong: Vec<String> = golden.nets.iter().flat_map(|net| golden.check(net)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Golden {
    fn has(&self, name: &str) -> bool {
        self.nets.iter().any(|net| net.name == name)
    }

    /// One line for each form of the net that is too far from PyTorch.
    fn check(&self, golden: &GoldenNet) -> Vec<String> {
        let dynamic = DynamicOptions { experts: golden.experts, ..DynamicOptions::default() };
        let options = ZooOptions {
            classes: self.classes,
            size: [self.size, self.size],
            dynamic: (golden.experts > 0).then_some(dynamic),
            ..ZooOptions::default()
        };
        let net = zoo::build(&golden.name, &options).unwrap();
        let forms: &[Form] = if net.is_dynamic() { &[Form::Fuse, Form::Mix] } else { &[Form::Fuse] };
        let mut module = NetModule::new(&net, &formula::weights(&net, golden.gain), &Device::flex()).unwrap();
        let mut wrong = Vec::new();
        for form in forms {
            module.set_form(Some(*form));
            let logits = run(&module, &net, golden.logits.len());
            for (image, (got, want)) in logits.chunks(self.classes).zip(&golden.logits).enumerate() {
                let error = relative_error(got, want);
                if error.is_nan() || error > TOLERANCE {
                    let (name, k) = (&golden.name, golden.experts);
                    wrong.push(format!(
                        "{name}, experts {k}, {form:?}, image {image}: off by {error:.1e}, at most {TOLERANCE:.0e} expected"
                    ));
                }
            }
        }
        wrong
    }
}

fn run(module: &NetModule, net: &Net, images: usize) -> Vec<f32> {
    let shape = net.input();
    let pixels: Vec<f32> = (0..images).flat_map(|index| formula::image(shape, index)).collect();
    let data = TensorData::new(pixels, [images, shape.c, shape.h, shape.w]);
    let logits = module.forward(Tensor::<4>::from_data(data, &Device::flex()));
    logits.into_data().iter::<f32>().collect()
}
