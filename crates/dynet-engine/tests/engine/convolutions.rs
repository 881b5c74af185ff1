//! Random small nets around one convolution, static or dynamic, against the naive interpreter.

use std::sync::Arc;

use crate::common::{Random, error, interpret, weights};
use dynet_engine::{Isa, Options, Plan, Precision, Session};
use dynet_net::{
    Activation, CoefActivation, Conv2d, DynamicKernel, Head, Net, NetBuilder, Op, PaddingMode, Predictor,
    Shape,
};
use proptest::prelude::*;

/// A net `[conv ->] conv [-> norm] [-> +] [-> activation] -> pool -> linear`; `None` where its sizes do not fit.
fn random(r: &mut Random) -> Option<Net> {
    let groups = r.pick(&[1, 1, 1, 2, 3, 8]);
    let per_group = [r.below(9) + 1, r.pick(&[1, 2, 5, 16, 40])];
    let [c_in, c_out] = per_group.map(|c| c * groups);
    let mut b = NetBuilder::new("n", Shape::new(r.pick(&[1, 2, 3, 4, 6]), r.below(20) + 1, r.below(20) + 1));
    let image = b.input();
    // The second convolution may be the one under test, or the first, which reads the images.
    let x = match r.below(3) {
        0 if b.channels(image) == c_in => image,
        _ => {
            let first = Conv2d::new(b.channels(image), c_in, r.pick(&[1, 3])).stride(r.pick(&[1, 2]));
            let x = b.conv("first", image, first.with_bias());
            if r.below(2) == 0 { b.act(x, Activation::Hardswish) } else { x }
        }
    };
    let mut conv = Conv2d {
        kernel: [r.pick(&[1, 3, 5, 2]), r.pick(&[1, 3, 4])],
        stride: [r.below(3) + 1, r.below(2) + 1],
        padding: [r.below(3), r.below(3)],
        padding_mode: r.pick(&[
            PaddingMode::Zeros,
            PaddingMode::Zeros,
            PaddingMode::Reflect,
            PaddingMode::Replicate,
            PaddingMode::Circular,
        ]),
        dilation: [r.below(2) + 1, r.pick(&[1, 1, 3])],
        groups,
        bias: r.below(2) == 0,
        ..Conv2d::new(c_in, c_out, 1)
    };
    if r.below(3) == 0 {
        conv = Conv2d { padding_mode: PaddingMode::Zeros, ..Conv2d::new(c_in, c_out, r.pick(&[1, 3])) };
        conv = conv.groups(groups);
    }
    let mut inputs = vec![x];
    if r.below(3) > 0 {
        let experts = r.below(16) + 1;
        let channels = r.pick(&[1, c_out]);
        let predictor = Predictor {
            hidden: r.pick(&[None, Some(3)]),
            heads: vec![Head { experts: 2, channels: 1 }, Head { experts, channels }],
            activation: r.pick(&[CoefActivation::Sigmoid, CoefActivation::Softmax { temperature: 2.0 }]),
            dropout: 0.1,
        };
        inputs.push(b.push("predictor", Op::Predictor(predictor), &[x]));
        conv.dynamic = Some(DynamicKernel { experts, head: 1 });
    }
    let mut y = b.push("conv", Op::Conv2d(conv), &inputs);
    if r.below(2) == 0 {
        y = b.norm("norm", y);
    }
    if r.below(3) == 0 && b.shape(y) == b.shape(x) {
        y = b.push("add", Op::Add, &[y, x]);
    }
    if r.below(2) == 0 {
        y = b.act(y, r.pick(&[Activation::Relu, Activation::Relu6, Activation::Sigmoid]));
    }
    let y = b.push("pool", Op::GlobalAvgPool, &[y]);
    b.push("fc", Op::Linear { c_out: 5 }, &[y]);
    b.finish().ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_convolutions_equal_the_naive_ones(seed in any::<u64>()) {
        let mut r = Random(seed);
        let Some(net) = random(&mut r) else { return Ok(()) };
        let weights = weights(&net, seed % 1000);
        let len = net.input().len();
        let images = r.values(2 * len);
        for isa in Isa::available() {
            // A few layers of f32, one of them perhaps in tiles of 4 x 4; a few whose factors have 8 bits.
            for (precision, tolerance) in [(Precision::F32, 3e-5), (Precision::Bf16, 3e-2)] {
                let plan = Plan::compile(&net, &weights, &Options { isa, precision, ..Options::default() });
                let mut session = Session::new(Arc::new(plan.expect("a plan")), 2).expect("threads");
                let logits = session.run(&images).expect("logits");
                for (image, got) in images.chunks(len).zip(logits.chunks(5)) {
                    let want = interpret(&net, &weights, image).pop().expect("logits");
                    let error = error(got, &want);
                    prop_assert!(error < tolerance, "{isa} {precision:?}: {error:.1e}");
                }
            }
        }
    }
}
