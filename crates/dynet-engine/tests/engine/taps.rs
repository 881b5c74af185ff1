//! Taps show what the net computes at a node, whatever is fused elsewhere.

use std::sync::Arc;

use crate::common::{Random, error, interpret, weights};
use dynet_engine::{Options, Plan, Session};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Net, NodeId};

/// Runs two images with these taps and holds every one of them to the naive interpreter.
fn check(net: &Net, taps: Vec<NodeId>) {
    let weights = weights(net, 3);
    let plan = Plan::compile(net, &weights, &Options { taps: taps.clone(), ..Options::default() }).unwrap();
    let mut session = Session::new(Arc::new(plan), 2).unwrap();
    let len = net.input().len();
    let images = Random(4).values(2 * len);
    let want: Vec<_> = images.chunks(len).map(|image| interpret(net, &weights, image)).collect();
    let mut seen = Vec::new();
    session
        .run_with_taps(&images, |image, id, values| {
            let error = error(values, &want[image][id.index()]);
            let name = &net.node(id).name;
            assert!(error < 3e-5, "{} {name} of image {image}: error {error:.1e}", net.name());
            seen.push((image, id));
        })
        .unwrap();
    let expected: Vec<_> = (0..2).flat_map(|i| taps.iter().map(move |t| (i, *t))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn every_node_can_be_tapped() {
    for info in zoo::models() {
        let options = ZooOptions { width: 0.25, classes: 5, size: [33, 40], ..Default::default() };
        let net = zoo::build(info.name, &options).unwrap();
        check(&net, net.ids().collect());
        // Few of them, so that most of the net stays fused.
        for step in [7, 5] {
            check(&net, net.ids().skip(1).step_by(step).collect());
        }
    }
}
