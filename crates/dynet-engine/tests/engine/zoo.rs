//! Every net of the zoo, static and dynamic, with every option, against the naive interpreter.

use std::sync::Arc;

use crate::common::{Random, error, interpret, weights};
use dynet_engine::{Isa, Options, Plan, Precision, Session, Storage};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{CoefActivation, Coefficients, DynamicOptions, Net, Scope};

/// f32 against f64 over some fifty layers whose sums have up to some hundred terms: the error of each is about
/// 1e-7 relative and they add up at random.
const TOLERANCE: f64 = 3e-5;

/// Factors of 8 bits: 1/256 of each at most, which adds up at random, too, and is damped by norms and pools. A layer that
/// reads the wrong values is off by as much as the logits are large.
const BF16_TOLERANCE: f64 = 5e-2;

/// Small enough for the naive interpreter.
fn small() -> ZooOptions {
    ZooOptions { width: 0.25, classes: 7, size: [40, 33], ..Default::default() }
}

fn check(net: &Net, options: &Options, tolerance: f64) {
    let weights = weights(net, 5);
    let mut session = Session::new(Arc::new(Plan::compile(net, &weights, options).unwrap()), 2).unwrap();
    let image = Random(9).values(net.input().len());
    let want = interpret(net, &weights, &image).pop().unwrap();
    let got = session.run(&image).unwrap();
    let error = error(got, &want);
    assert!(error < tolerance, "{} {options:?}: error {error:.1e}", net.name());
}

#[test]
fn every_net_equals_the_naive_one_on_every_instruction_set() {
    for info in zoo::models() {
        let net = zoo::build(info.name, &small()).unwrap();
        for isa in Isa::available() {
            check(&net, &Options { isa, ..Options::default() }, TOLERANCE);
            let precision = Precision::Bf16;
            check(&net, &Options { isa, precision, ..Options::default() }, BF16_TOLERANCE);
        }
    }
}

#[test]
fn every_net_cut_for_many_threads_equals_the_naive_one() {
    for info in zoo::models() {
        let net = zoo::build(info.name, &small()).unwrap();
        for threads in [5, 64] {
            check(&net, &Options { threads, ..Options::default() }, TOLERANCE);
            let precision = Precision::Bf16;
            check(&net, &Options { precision, threads, ..Options::default() }, BF16_TOLERANCE);
        }
    }
}

#[test]
fn every_static_net_made_dynamic_equals_the_naive_one() {
    for info in zoo::models().iter().filter(|m| !m.is_dynamic) {
        let dynamic = Some(DynamicOptions { experts: 4, ..Default::default() });
        let net = zoo::build(info.name, &ZooOptions { dynamic, ..small() }).unwrap();
        check(&net, &Options::default(), TOLERANCE);
        let (precision, experts) = (Precision::Bf16, Storage::Int8);
        check(&net, &Options { precision, experts, ..Options::default() }, BF16_TOLERANCE);
    }
}

#[test]
fn every_form_of_coefficients_equals_the_naive_one() {
    let softmax = |temperature| CoefActivation::Softmax { temperature };
    for name in ["mobilenet_v3_small", "shufflenet_v2_x1_0"] {
        for (experts, coefficients, activation, scope, squeeze) in [
            (1, Coefficients::Channel, softmax(1.0), Scope::Layer, None),
            (16, Coefficients::Channel, softmax(3.0), Scope::Block, None),
            (5, Coefficients::Kernel, CoefActivation::Sigmoid, Scope::Layer, Some(4)),
            (9, Coefficients::Kernel, softmax(30.0), Scope::Block, Some(4)),
            (8, Coefficients::Channel, CoefActivation::Sigmoid, Scope::Block, None),
        ] {
            let dynamic =
                DynamicOptions { experts, coefficients, activation, scope, squeeze, ..Default::default() };
            let net = zoo::build(name, &ZooOptions { dynamic: Some(dynamic), ..small() }).unwrap();
            check(&net, &Options::default(), TOLERANCE);
        }
    }
}

#[test]
fn small_stems_other_channels_and_sizes_equal_the_naive_ones() {
    for info in zoo::models() {
        let options =
            ZooOptions { small_stem: true, channels: 5, size: [9, 14], width: 0.25, classes: 3, ..small() };
        check(&zoo::build(info.name, &options).unwrap(), &Options::default(), TOLERANCE);
    }
}

#[test]
fn narrower_experts_stay_near_f32() {
    for name in ["dy_mobilenet_v3_small", "dy_resnet50"] {
        let net = zoo::build(name, &small()).unwrap();
        // Half a unit in the last place of 8 bits is 2e-3 a weight; int8 has steps of 1/127 of a channel's largest.
        for (experts, tolerance) in [(Storage::Bf16, 2e-2), (Storage::Int8, 6e-2)] {
            check(&net, &Options { experts, ..Options::default() }, tolerance);
        }
    }
}
