//! A 1x1 convolution and the depthwise one behind it, as one step or two.

use std::sync::Arc;

use crate::common::{Random, weights};
use dynet_engine::{Options, Plan, Session};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{DynamicOptions, Net, NodeId, Op, Scope};

/// Joined steps of a plan for one image or several, and the logits.
fn run(net: &Net, taps: &[NodeId], images: &[f32], threads: usize) -> (usize, Vec<f32>) {
    let options = Options { taps: taps.to_vec(), ..Options::default() };
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
