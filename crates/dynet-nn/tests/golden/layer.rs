//! `DyConv2d` gives the outputs and all gradients of the seed document's layer in PyTorch, in both forms.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use dynet_net::{PaddingMode, Weights, formula};
use dynet_nn::{DyConv2d, DyConv2dConfig, Form};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::near::relative_error;

static FILE: &[u8] = include_bytes!("layer.safetensors");

/// PyTorch computed in f64. A gradient of a kernel sums some 300 products here, each rounded at 6e-8; the error stays
/// below 1e-6 of the largest value of its tensor.
const TOLERANCE: f64 = 3e-6;

/// One case of `tools/golden/layer.py`.
#[derive(Deserialize)]
struct Case {
    images: usize,
    size: [usize; 2],
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    mode: PaddingMode,
    dilation: [usize; 2],
    groups: usize,
    bias: bool,
    experts: usize,
}

impl Case {
    fn input_shape(&self) -> Vec<usize> {
        vec![self.images, self.channels[0], self.size[0], self.size[1]]
    }

    /// The layer with the state dict of the generator, under the names that PyTorch gives its tensors.
    fn layer(&self, name: &str, form: Form, device: &Device) -> DyConv2d {
        let [c_in, c_out] = self.channels;
        let [kh, kw] = self.kernel;
        let mut state = Weights::new();
        let mut add = |key: &str, shape: &[usize], scale| {
            let values = uniform(&format!("{name}.{key}"), shape, scale);
            state.insert(key, shape.to_vec(), values);
        };
        add("weight", &[self.experts, c_out, c_in / self.groups, kh, kw], 0.5);
        if self.bias {
            add("bias", &[c_out], 0.25);
        }
        add("_coefficient_fn.fc.weight", &[self.experts * c_out, c_in], 2.0);
        add("_coefficient_fn.fc.bias", &[self.experts * c_out], 0.25);
        let config = DyConv2dConfig::new(self.channels, self.kernel)
            .with_stride(self.stride)
            .with_padding(self.padding)
            .with_padding_mode(self.mode)
            .with_dilation(self.dilation)
            .with_groups(self.groups)
            .with_bias(self.bias)
            .with_experts(self.experts)
            .with_dropout(0.0)
            .with_form(Some(form));
        config.init(device).unwrap().with_state(&state).unwrap()
    }
}

fn uniform(name: &str, shape: &[usize], scale: f32) -> Vec<f32> {
    formula::uniform(name, shape.iter().product()).into_iter().map(|u| scale * u).collect()
}

fn tensor<const D: usize>(name: &str, shape: Vec<usize>, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(uniform(name, &shape, 1.0), shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Everything that PyTorch stored of a case, as this layer gives it.
fn run(name: &str, case: &Case, form: Form) -> BTreeMap<&'static str, Vec<f32>> {
    let device = Device::flex().autodiff();
    let layer = case.layer(name, form, &device);
    let input = tensor::<4>(&format!("{name}.input"), case.input_shape(), &device).require_grad();
    let output = layer.forward(input.clone());
    let upstream = tensor(&format!("{name}.upstream"), output.dims().to_vec(), &device);
    let grads = (output.clone() * upstream).sum().backward();
    fn grad<const D: usize>(tensor: &Tensor<D>, grads: &Gradients) -> Vec<f32> {
        values(tensor.grad(grads).expect("every parameter has a gradient"))
    }
    let fc = &layer.predictor.fc;
    let mut found = BTreeMap::from([
        ("output", values(output.inner())),
        ("input", grad(&input, &grads)),
        ("weight", grad(&layer.kernels.weight.val(), &grads)),
        ("_coefficient_fn.fc.weight", grad(&fc.weight.val(), &grads)),
        ("_coefficient_fn.fc.bias", grad(&fc.bias.val(), &grads)),
    ]);
    if let Some(bias) = &layer.kernels.bias {
        found.insert("bias", grad(&bias.val(), &grads));
    }
    found
}

fn stored(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    view.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
}

#[test]
fn every_option_gives_the_outputs_and_gradients_of_pytorch() {
    let (_, head) = SafeTensors::read_metadata(FILE).unwrap();
    let cases: BTreeMap<String, Case> =
        serde_json::from_str(&head.metadata().as_ref().unwrap()["cases"]).unwrap();
    let file = SafeTensors::deserialize(FILE).unwrap();
    assert!(cases.len() >= 20, "{} cases", cases.len());
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (name, case) in &cases {
        for form in [Form::Mix, Form::Fuse] {
            for (key, got) in run(name, case, form) {
                let error = relative_error(&got, &stored(&file, &format!("{name}/{key}")));
                compared += 1;
                if error.is_nan() || error > TOLERANCE {
                    wrong.push(format!("{name}, {form:?}, {key}: off by {error:.1e} of the largest value"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "at most {TOLERANCE:.0e} expected\n{}", wrong.join("\n"));
    assert_eq!(compared, 2 * file.len(), "everything that is stored is compared");
}

#[test]
fn a_state_dict_that_does_not_fit_is_refused_in_one_error() {
    let layer = DyConv2dConfig::new([3, 4], [3, 3]).init(&Device::flex()).unwrap();
    let state = layer.state();
    let again = layer.clone().with_state(&state).unwrap().state();
    assert_eq!(again, state);
    let mut other = Weights::new();
    other.insert("weight", vec![3, 4, 3, 3], vec![0.0; 108]);
    other.insert("bias", vec![4], vec![f32::NAN; 4]);
    other.insert("_coefficient_fn.fc.weight", vec![12, 3], vec![0.0; 36]);
    other.insert("scale", vec![1], vec![0.0]);
    let text = layer.with_state(&other).unwrap_err().to_string();
    for part in [
        "weight: expected shape [3, 4, 3, 3, 3], got [3, 4, 3, 3]",
        "bias: value NaN",
        "_coefficient_fn.fc.bias: missing, expected shape [12]",
        "scale: extra",
    ] {
        assert!(text.contains(part), "{part} not in {text}");
    }
}
