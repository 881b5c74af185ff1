//! Bad plans and bad images are typed errors.

use std::sync::Arc;

use crate::common::weights;
use dynet_engine::{Options, Plan, PlanError, RunError, Session};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Conv2d, Net, NetBuilder, Op, Shape, Weights};

fn small() -> Net {
    zoo::build("resnet18", &ZooOptions { width: 0.125, classes: 3, size: [32, 32], ..Default::default() })
        .unwrap()
}

fn compile(net: &Net, weights: &Weights) -> Result<Plan, PlanError> {
    Plan::compile(net, weights, &Options::default())
}

#[test]
fn wrong_weights_are_refused_by_name() {
    let net = small();
    let mut bad = weights(&net, 1);
    bad.insert("fc.bias", vec![4], vec![0.0; 4]);
    bad.insert("layer1.0.bn1.weight", vec![8], [vec![f32::INFINITY], vec![0.0; 7]].concat());
    bad.insert("stray", vec![1], vec![0.0]);
    let text = compile(&net, &bad).unwrap_err().to_string();
    for part in ["fc.bias: expected shape [3], got [4]", "layer1.0.bn1.weight", "stray"] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    let text = compile(&net, &Weights::new()).unwrap_err().to_string();
    assert!(text.contains("conv1.weight: missing"), "{text}");
}

#[test]
fn a_normalisation_that_overflows_is_refused() {
    let net = small();
    let mut bad = weights(&net, 1);
    bad.insert("bn1.weight", vec![8], vec![f32::MAX; 8]);
    bad.insert("bn1.running_var", vec![8], vec![0.0; 8]);
    match compile(&net, &bad) {
        Err(PlanError::NotFinite { node, .. }) => assert_eq!(node, "bn1"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sizes_that_no_memory_holds_are_refused_before_anything_is_allocated() {
    // 65536 channels of 8192 x 8192 pixels are 2^42 values; its weights are few.
    let mut b = NetBuilder::new("n", Shape::new(1, 8192, 8192));
    let x = b.conv("conv", b.input(), Conv2d::new(1, 65536, 1).groups(1));
    b.push("pool", Op::GlobalAvgPool, &[x]);
    let net = match b.finish() {
        Ok(net) => net,
        // The net itself may have limits below the engine's.
        Err(_) => return,
    };
    let weights = Weights::init(&net, 0);
    assert!(matches!(compile(&net, &weights), Err(PlanError::TooLarge { .. })));
}

#[test]
fn a_tap_of_another_net_is_refused() {
    let (net, other) = (small(), zoo::build("resnet50", &Default::default()).unwrap());
    let options = Options { taps: vec![other.output()], ..Options::default() };
    match Plan::compile(&net, &weights(&net, 1), &options) {
        Err(PlanError::Tap { nodes, got }) => assert!(got >= nodes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn images_that_are_not_whole_are_refused_and_none_are_none() {
    let net = small();
    let plan = Arc::new(compile(&net, &weights(&net, 1)).unwrap());
    let mut session = Session::new(plan, 1).unwrap();
    assert!(session.run(&[]).unwrap().is_empty());
    match session.run(&vec![0.0; 3 * 32 * 32 + 1]) {
        Err(RunError::Length { expected, got, .. }) => assert_eq!((expected, got), (3072, 3073)),
        other => panic!("{other:?}"),
    }
}
