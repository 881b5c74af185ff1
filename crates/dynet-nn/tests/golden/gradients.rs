//! Gradients of a net with every operation are PyTorch's, on the CPU operations and on Burn's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use dynet_net::DynamicOptions;
use serde::Deserialize;

use crate::pass::{module_on, pass};
use crate::small_net::small_net;

/// PyTorch's own f32 is off by up to 7e-7 of a tensor's largest value (`f32_error` in the file); ours adds in another
/// order.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    images: usize,
    selected: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    options: Option<DynamicOptions>,
    loss: f64,
    gradients: BTreeMap<String, Told>,
}

/// What is stored of a gradient.
#[derive(Deserialize)]
struct Told {
    norm: f64,
    sum: f64,
    entries: Vec<f64>,
}

#[test]
fn gradients_of_every_operation_are_those_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/gradients.json");
    let golden: Golden = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let device = Device::flex();
    let mut wrong = Vec::new();
    for case in &golden.cases {
        for burn in [false, true] {
            let net = small_net(case.options.as_ref());
            let (loss, named, _) = pass(&module_on(&net, &device), &device, golden.images, burn);
            let loss = (f64::from(loss) - case.loss).abs() / case.loss;
            assert!(
                loss < TOLERANCE,
                "{:?}, with Burn's operations: {burn}: loss off by {loss:.1e}",
                case.options
            );
            assert!(case.gradients.keys().eq(named.keys()), "a gradient of each parameter and of the images");
            // What cancels leaves the roundings of what it is made of.
            let all = case.gradients.values().map(|told| told.norm).fold(0.0, f64::max);
            for (name, told) in &case.gradients {
                let error = told.error(&named[name], golden.selected, all / 10.0);
                if error.is_nan() || error > TOLERANCE {
                    wrong.push(format!(
                        "{:?}, with Burn's operations: {burn}, {name}: off by {error:.1e}",
                        case.options
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

impl Told {
    /// The largest error of norm, sum and entries, over the norm or `least`. A sum's is over the root of their number
    /// too: by so much its terms' errors may add up.
    fn error(&self, got: &[f32], selected: usize, least: f64) -> f64 {
        let values = || got.iter().copied().map(f64::from);
        let spread = (0..selected.min(got.len())).map(|i| f64::from(got[i * got.len() / selected]));
        assert_eq!(spread.len(), self.entries.len());
        let sum = (values().sum::<f64>() - self.sum).abs() / (got.len() as f64).sqrt();
        let norm = (values().map(|v| v * v).sum::<f64>().sqrt() - self.norm).abs();
        let entries = spread.zip(&self.entries).map(|(got, want)| (got - want).abs());
        let largest = entries.chain([sum, norm]).fold(0.0, |max, e| if e <= max { max } else { e });
        largest / self.norm.max(least)
    }
}
