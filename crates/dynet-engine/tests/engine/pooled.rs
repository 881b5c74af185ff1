//! A convolution and the max pooling behind it, as one step or two.

use std::sync::Arc;

use crate::common::{Random, weights};
use dynet_engine::{Options, Plan, Precision, Session};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Net, NodeId, Op};

/// Joined steps of a plan that is cut for some threads, and the logits.
fn run(net: &Net, taps: &[NodeId], images: &[f32], cut: usize, precision: Precision) -> (usize, Vec<f32>) {
    let options = Options { taps: taps.to_vec(), threads: cut, precision, ..Options::default() };
    let plan = Plan::compile(net, &weights(net, 5), &options).unwrap();
    let joined = plan.layers().iter().filter(|layer| layer.algorithm.ends_with("+ pool")).count();
    (joined, Session::new(Arc::new(plan), 2).unwrap().run(images).unwrap().to_vec())
}

#[test]
fn joined_layers_give_the_bits_of_single_ones() {
    // 7x7 stems by Winograd's filtering and 3x3 ones over planes; images whose rows are cut unevenly, and wide ones.
    let sizes = [[64, 48], [224, 224], [37, 90], [9, 300]];
    for (name, size) in
        ["resnet18", "shufflenet_v2_x1_0"].into_iter().flat_map(|n| sizes.map(|size| (n, size)))
    {
        let options = ZooOptions { width: 0.5, classes: 5, size, ..Default::default() };
        let net = zoo::build(name, &options).unwrap();
        let pooled = |id: &NodeId| matches!(net.node(*id).op, Op::MaxPool { .. });
        let taps: Vec<NodeId> = net.ids().filter(pooled).map(|id| net.node(id).inputs[0]).collect();
        let images = Random(6).values(3 * net.input().len());
        for precision in [Precision::F32, Precision::Bf16] {
            let (none, want) = run(&net, &taps, &images[..net.input().len()], 1, precision);
            assert_eq!((none, taps.len()), (0, 1), "layers with a tap between them");
            for (batch, cut) in [(1, 1), (1, 2), (1, 5), (3, 2)] {
                let (joined, got) = run(&net, &[], &images[..batch * net.input().len()], cut, precision);
                let what = format!("{name}, {size:?}, {precision:?}, batch {batch}, {cut} threads");
                assert_eq!(joined, 1, "{what}");
                // Means over the last maps depend on the cut.
                let close = got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()));
                let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(close && (same || cut > 1), "{what}: {got:?}, not {want:?}");
                assert_eq!(got.len(), batch * 5, "{what}");
            }
        }
    }
}
