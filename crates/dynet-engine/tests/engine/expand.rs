//! A 1x1 convolution and the depthwise one behind it, as one step or two.

use std::sync::Arc;

use crate::common::{Random, error, interpret, weights};
use dynet_engine::{Options, Plan, Precision, Session};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Conv2d, DynamicOptions, Net, NetBuilder, NodeId, Op, Scope, Shape};

/// Joined steps of a plan for one image or several, and the logits.
fn run(net: &Net, taps: &[NodeId], images: &[f32], threads: usize) -> (usize, Vec<f32>) {
    let options = Options { taps: taps.to_vec(), threads: 2, ..Options::default() };
    let plan = Plan::compile(net, &weights(net, 5), &options).unwrap();
    let joined = plan.layers().iter().filter(|layer| layer.algorithm == "1x1 + window").count();
    (joined, Session::new(Arc::new(plan), threads).unwrap().run(images).unwrap().to_vec())
}

#[test]
fn joined_layers_give_the_bits_of_single_ones() {
    let dynamic = Some(DynamicOptions { scope: Scope::Block, ..Default::default() });
    let statics = [[64, 48], [224, 224], [37, 90]].map(|size| (None, size, 11));
    // On small maps threads make coefficients for themselves, except for joined layers.
    for (dynamic, size, least) in statics.into_iter().chain([(dynamic, [160, 160], 12)]) {
        let options = ZooOptions { width: 0.5, classes: 5, size, dynamic, ..Default::default() };
        let net = zoo::build("mobilenet_v2", &options).unwrap();
        // Who looks at the map in between must find it in memory.
        let depthwise = |id: &NodeId| matches!(&net.node(*id).op, Op::Conv2d(c) if c.groups > 1);
        let taps: Vec<NodeId> = net.ids().filter(depthwise).map(|id| net.node(id).inputs[0]).collect();
        let images = Random(6).values(3 * net.input().len());
        let (none, want) = run(&net, &taps, &images, 1);
        assert_eq!(none, 0, "layers with a tap between them");
        for (batch, threads) in [(1, 1), (1, 2), (3, 1), (3, 2)] {
            let (joined, got) = run(&net, &[], &images[..batch * net.input().len()], threads);
            assert!(joined >= least, "{joined} joined layers, {size:?}");
            let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && got.len() == batch * 5, "{size:?}, batch {batch}, {threads} threads");
        }
    }
}

#[test]
fn a_large_map_that_a_predictor_reads_the_mean_of_is_computed_twice() {
    let dynamic = Some(DynamicOptions::default());
    let options = ZooOptions { classes: 5, size: [160, 160], dynamic, ..Default::default() };
    let net = zoo::build("mobilenet_v2", &options).unwrap();
    let depthwise = |id: &NodeId| matches!(&net.node(*id).op, Op::Conv2d(c) if c.groups > 1);
    let maps: Vec<NodeId> = net.ids().filter(depthwise).map(|id| net.node(id).inputs[0]).collect();
    // That which needs the mean of the first large map.
    let predictor = net.node(net.ids().filter(depthwise).nth(1).unwrap()).inputs[1];
    // Brighter from row to row, so that a mean of some rows is not that of all.
    let mut images = Random(6).values(3 * net.input().len());
    images.iter_mut().enumerate().for_each(|(i, x)| *x += 4.0 * (i / 160 % 160) as f32 / 160.0);
    for (precision, within) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-3)] {
        let compile = |taps: &[NodeId]| {
            let options = Options { taps: taps.to_vec(), threads: 2, precision, ..Options::default() };
            Arc::new(Plan::compile(&net, &weights(&net, 5), &options).unwrap())
        };
        // All coefficients and logits of some images.
        let run = |plan: &Arc<Plan>, batch: usize, threads| {
            let mut session = Session::new(Arc::clone(plan), threads).unwrap();
            let (mut coefs, images) = (Vec::new(), &images[..batch * net.input().len()]);
            let look = |_, id, values: &[f32]| {
                if id == predictor {
                    coefs.extend_from_slice(values);
                }
            };
            let logits = session.run_with_taps(images, look).unwrap().to_vec();
            (coefs, logits)
        };
        let [apart, looked_at, joined] =
            [&[&[predictor], &maps[..]].concat()[..], &[predictor], &[]].map(compile);
        let count = |plan: &Plan| plan.layers().iter().filter(|layer| layer.is_repeated).count();
        let counts = [&apart, &looked_at, &joined].map(|plan| count(plan));
        assert_eq!(counts, [0, 1, 1], "96 channels of 80 x 80 are 2.3 MiB");
        assert_eq!(looked_at.weight_bytes(), apart.weight_bytes(), "weights are kept once");
        let (want, got, all) = (run(&apart, 3, 1), run(&looked_at, 3, 1), run(&joined, 3, 1));
        let far = |got: &[f32], want: &[f32]| {
            error(got, &want.iter().copied().map(f64::from).collect::<Vec<f64>>())
        };
        let [coefs, logits] = [far(&got.0, &want.0), far(&all.1, &want.1)];
        assert!(coefs < within && logits < within, "{precision:?}: coefficients {coefs}, logits {logits}");
        for (batch, threads) in [(1, 1), (1, 2), (2, 2), (3, 2)] {
            let (_, got) = run(&joined, batch, threads);
            let same = got.iter().zip(&all.1).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && got.len() == batch * 5, "{precision:?}, batch {batch}, {threads} threads");
        }
    }
}

#[test]
fn a_map_that_is_added_behind_the_depthwise_layer_stays_in_memory() {
    let mut b = NetBuilder::new("residual", Shape::new(6, 18, 2));
    let image = b.input();
    let x = b.conv("expand", image, Conv2d::new(6, 2, 1).with_bias());
    let y = b.conv("window", x, Conv2d::new(2, 2, 1).groups(2));
    let y = b.norm("norm", y);
    let y = b.push("add", Op::Add, &[y, x]);
    let y = b.push("pool", Op::GlobalAvgPool, &[y]);
    b.push("fc", Op::Linear { c_out: 5 }, &[y]);
    let net = b.finish().unwrap();
    let images = Random(7).values(net.input().len());
    let (joined, got) = run(&net, &[], &images, 1);
    let want = interpret(&net, &weights(&net, 5), &images).pop().unwrap();
    assert!(joined == 0 && error(&got, &want) < 3e-5, "{joined} joined layers, {got:?}, not {want:?}");
}
