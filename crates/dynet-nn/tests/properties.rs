//! What holds of any dynamic convolution, over random shapes and options.
#![expect(clippy::unwrap_used, reason = "a test fails that way")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use dynet_net::{PaddingMode, formula};
use dynet_nn::{CoefActivation, DyConv2d, DyConv2dConfig, ExpertConv2d, Form, Geometry};
use proptest::prelude::*;

/// Sums of at most some 200 products of order one, in different orders: each rounds at 6e-8 of the sum.
const TOLERANCE: f32 = 1e-4;

/// A convolution with images that it takes.
#[derive(Clone, Debug)]
struct Case {
    images: usize,
    experts: usize,
    channels: [usize; 2],
    kernel: [usize; 2],
    size: [usize; 2],
    geometry: Geometry,
}

fn cases() -> impl Strategy<Value = Case> {
    let counts = (1..4usize, 1..5usize, 1..4usize, 1..4usize, 1..4usize);
    let moves =
        ([1..4usize, 1..4usize], [1..4usize, 1..4usize], [0..3usize, 0..3usize], [1..3usize, 1..3usize]);
    let modes = prop_oneof![
        Just(PaddingMode::Zeros),
        Just(PaddingMode::Reflect),
        Just(PaddingMode::Replicate),
        Just(PaddingMode::Circular)
    ];
    (counts, moves, modes, [0..4usize, 0..4usize]).prop_map(|(counts, moves, padding_mode, extra)| {
        let (images, experts, groups, c_in, c_out) = counts;
        let (kernel, stride, padding, dilation) = moves;
        // At least one output pixel, and borders narrower than the image, as reflection wants them.
        let size = [0, 1].map(|axis| {
            let reach = dilation[axis] * (kernel[axis] - 1) + 1;
            reach.max(padding[axis] + 1) + extra[axis]
        });
        let geometry = Geometry { stride, padding, padding_mode, dilation, groups };
        Case { images, experts, channels: [c_in * groups, c_out * groups], kernel, size, geometry }
    })
}

impl Case {
    fn kernels(&self, device: &Device) -> ExpertConv2d {
        ExpertConv2d::new(self.experts, self.channels, self.kernel, self.geometry, true, device).unwrap()
    }

    fn pixels(&self, device: &Device) -> Tensor<4> {
        let shape = [self.images, self.channels[0], self.size[0], self.size[1]];
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }

    fn coefs(&self, device: &Device) -> Tensor<3> {
        let shape = [self.images, self.experts, self.channels[1]];
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }
}

fn device() -> Device {
    Device::flex()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Largest difference; NaN counts as infinite.
fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() }).fold(0.0, f32::max)
}

fn in_form(kernels: &ExpertConv2d, form: Form) -> ExpertConv2d {
    let mut kernels = kernels.clone();
    kernels.set_form(Some(form));
    kernels
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mix_equals_fuse(case in cases()) {
        let kernels = case.kernels(&device());
        let (x, coefs) = (case.pixels(&device()), case.coefs(&device()));
        let mixed = in_form(&kernels, Form::Mix).forward(x.clone(), coefs.clone());
        let fused = in_form(&kernels, Form::Fuse).forward(x, coefs);
        prop_assert!(distance(mixed, fused) < TOLERANCE);
    }

    #[test]
    fn one_hot_coefficients_are_a_static_convolution(case in cases(), pick in 0..4usize) {
        let pick = pick % case.experts;
        let kernels = case.kernels(&device());
        let [c_out, x] = [case.channels[1], case.images];
        let index: Vec<f32> = (0..case.experts).map(|e| f32::from(u8::from(e == pick))).collect();
        let one_hot = Tensor::<1>::from_data(TensorData::new(index, [case.experts]), &device());
        let coefs = one_hot.reshape([1, case.experts, 1]).expand([x, case.experts, c_out]);
        let pixels = case.pixels(&device());
        // One expert alone with coefficient 1 is Burn's ordinary convolution.
        let mut alone = Case { experts: 1, ..case.clone() }.kernels(&device());
        alone.weight = Param::from_tensor(kernels.weight.val().narrow(0, pick, 1));
        let want = alone.forward(pixels.clone(), Tensor::ones([x, 1, c_out], &device()));
        for form in [Form::Mix, Form::Fuse] {
            let got = in_form(&kernels, form).forward(pixels.clone(), coefs.clone());
            prop_assert!(distance(got, want.clone()) < TOLERANCE, "{form:?}");
        }
    }

    #[test]
    fn the_output_is_linear_in_the_coefficients(case in cases(), a in -2.0f32..2.0, b in -2.0f32..2.0) {
        let kernels = case.kernels(&device());
        let x = case.pixels(&device());
        let (p, q) = (case.coefs(&device()), case.coefs(&device()));
        for form in [Form::Mix, Form::Fuse] {
            let run = |coefs| in_form(&kernels, form).forward(x.clone(), coefs);
            let both = run(p.clone().mul_scalar(a) + q.clone().mul_scalar(b));
            let apart = run(p.clone()).mul_scalar(a) + run(q.clone()).mul_scalar(b);
            prop_assert!(distance(both, apart) < TOLERANCE, "{form:?}");
        }
    }

    #[test]
    fn groups_are_a_block_diagonal_kernel(case in cases()) {
        let grouped = case.kernels(&device());
        let (x, coefs) = (case.pixels(&device()), case.coefs(&device()));
        let Geometry { groups, .. } = case.geometry;
        let [c_in, c_out] = case.channels;
        let (inputs, outputs) = (c_in / groups, c_out / groups);
        let blocks = (0..groups).map(|g| {
            let own = grouped.weight.val().narrow(1, g * outputs, outputs);
            let zeros = |depth| Tensor::<5>::zeros([case.experts, outputs, depth, case.kernel[0], case.kernel[1]], &device());
            let parts = [zeros(g * inputs), own, zeros((groups - 1 - g) * inputs)];
            Tensor::cat(parts.into_iter().filter(|part| part.dims()[2] > 0).collect(), 2)
        });
        let geometry = Geometry { groups: 1, ..case.geometry };
        let mut dense = Case { geometry, ..case.clone() }.kernels(&device());
        dense.weight = Param::from_tensor(Tensor::cat(blocks.collect(), 1));
        for form in [Form::Mix, Form::Fuse] {
            let run = |kernels| in_form(kernels, form).forward(x.clone(), coefs.clone());
            prop_assert!(distance(run(&grouped), run(&dense)) < TOLERANCE, "{form:?}");
        }
    }

    #[test]
    fn an_image_does_not_see_its_batch(case in cases(), sigmoid in any::<bool>()) {
        let activation = match sigmoid {
            true => CoefActivation::Sigmoid,
            false => CoefActivation::Softmax { temperature: 0.7 },
        };
        let layer = DyConv2dConfig::new(case.channels, case.kernel)
            .with_groups(case.geometry.groups)
            .with_padding(case.kernel)
            .with_experts(case.experts)
            .with_activation(activation)
            .with_dropout(0.0);
        // On an autodiff device too, where batch statistics would be used.
        for device in [device(), device().autodiff()] {
            let layer = layer.init(&device).unwrap();
            let x = case.pixels(&device);
            let (together, coefs) = (layer.forward(x.clone()), layer.coefficients(x.clone()));
            for image in 0..case.images {
                let alone = x.clone().narrow(0, image, 1);
                let own = coefs.clone().narrow(0, image, 1);
                prop_assert!(distance(layer.coefficients(alone.clone()), own) < 1e-6);
                prop_assert!(distance(layer.forward(alone), together.clone().narrow(0, image, 1)) < TOLERANCE);
            }
        }
    }
}

/// A layer on the training device with its output's square as the loss of some images.
fn gradients(form: Form, images: usize) -> (DyConv2d, burn::tensor::Gradients) {
    let device = device().autodiff();
    let layer =
        DyConv2dConfig::new([4, 6], [3, 3]).with_padding([1, 1]).with_form(Some(form)).with_dropout(0.0);
    let layer = layer.init(&device).unwrap();
    let shape = dynet_net::Shape::new(4, 7, 7);
    let pixels: Vec<f32> = (0..images).flat_map(|index| formula::image(shape, index)).collect();
    let x = Tensor::<4>::from_data(TensorData::new(pixels, [images, 4, 7, 7]), &device);
    let grads = layer.forward(x).square().mean().backward();
    (layer, grads)
}

#[test]
fn one_image_trains_every_parameter() {
    for form in [Form::Mix, Form::Fuse] {
        let (layer, grads) = gradients(form, 1);
        let fc = &layer.predictor.fc;
        let bias = layer.kernels.bias.as_ref().unwrap();
        let all = [
            ("weight", values(layer.kernels.weight.val().grad(&grads).unwrap())),
            ("bias", values(bias.val().grad(&grads).unwrap())),
            ("fc.weight", values(fc.weight.val().grad(&grads).unwrap())),
            ("fc.bias", values(fc.bias.val().grad(&grads).unwrap())),
        ];
        for (name, grad) in all {
            assert!(grad.iter().all(|g| g.is_finite()), "{form:?}, {name}");
            let zeros = grad.iter().filter(|g| **g == 0.0).count();
            assert_eq!(zeros, 0, "{form:?}, {name}: no gradient for {zeros} of {} values", grad.len());
        }
    }
}

#[test]
fn experts_differ_and_are_told_different_things() {
    let (layer, grads) = gradients(Form::Mix, 2);
    let weight = layer.kernels.weight.val();
    let grad = weight.grad(&grads).unwrap();
    let weight = weight.inner();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let pair = |t: &Tensor<5>| distance(t.clone().narrow(0, a, 1), t.clone().narrow(0, b, 1));
        assert!(pair(&weight) > 0.01, "experts {a} and {b} start alike");
        assert!(pair(&grad) > 1e-4, "experts {a} and {b} have one gradient");
    }
}

#[test]
fn every_expert_starts_with_the_variance_of_its_own_fan_in() {
    // 64 output channels of 8 x 3 x 3: 4608 values, whose sample variance is within 5 % (4 standard deviations).
    let layer = DyConv2dConfig::new([16, 64], [3, 3]).with_groups(2).with_experts(5).init(&device()).unwrap();
    let want = 2.0 / (8.0 * 9.0);
    for expert in 0..5 {
        let own = values(layer.kernels.weight.val().narrow(0, expert, 1));
        let variance = own.iter().map(|v| v * v).sum::<f32>() / own.len() as f32;
        assert!((variance / want - 1.0).abs() < 0.05, "expert {expert}: {variance}, {want} expected");
    }
    assert!(values(layer.kernels.bias.unwrap().val()).iter().all(|v| *v == 0.0));
    assert!(values(layer.predictor.fc.bias.val()).iter().all(|v| *v == 0.0));
}

#[test]
fn the_temperature_is_part_of_the_saved_state() {
    let config = DyConv2dConfig::new([4, 6], [3, 3]);
    let mut hot = config.init(&device()).unwrap();
    hot.predictor.set_temperature(7.5).unwrap();
    let restored = config.init(&device()).unwrap().load_record(hot.clone().into_record());
    assert_eq!(restored.predictor.temperature(), Some(7.5));
    let x = Tensor::random([2, 4, 5, 5], Distribution::Uniform(0.0, 1.0), &device());
    assert_eq!(values(restored.coefficients(x.clone())), values(hot.coefficients(x.clone())));
    let cold = config.with_activation(CoefActivation::Softmax { temperature: 1.0 }).init(&device()).unwrap();
    let cold = cold.with_state(&hot.state()).unwrap();
    assert!(distance(cold.coefficients(x.clone()), hot.coefficients(x)) > 1e-4, "the temperature matters");
}
