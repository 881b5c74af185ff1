//! What must not change a bit of an image's logits, and what must.

use std::sync::Arc;

use crate::common::{Random, weights};
use dynet_engine::{Options, Plan, Precision, Session, StepTime, Storage};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{DynamicOptions, Net, Op, Weights};

const NAMES: [&str; 5] =
    ["mobilenet_v3_small", "shufflenet_v2_x1_0", "dy_resnet50", "dy_mobile", "dy_shuffle_x1_0"];

fn net(name: &str, size: [usize; 2]) -> Net {
    let options = ZooOptions { width: 0.25, classes: 7, size, ..Default::default() };
    let net = zoo::build(name, &options).unwrap();
    if net.is_dynamic() { net } else { net.to_dynamic(&DynamicOptions::default()).unwrap() }
}

fn session(net: &Net, weights: &Weights, options: &Options, threads: usize) -> Session {
    Session::new(Arc::new(Plan::compile(net, weights, options).unwrap()), threads).unwrap()
}

#[test]
fn logits_are_the_same_bits_at_any_position_batch_size_and_thread_count() {
    for name in NAMES {
        let net = net(name, [49, 64]);
        let weights = weights(&net, 1);
        let len = net.input().len();
        // More than one piece of images that run together.
        let images = Random(2).values(19 * len);
        for precision in [Precision::F32, Precision::Bf16] {
            let plan = |threads| Options { precision, threads, ..Options::default() };
            let mut alone = session(&net, &weights, &plan(1), 1);
            let want: Vec<Vec<f32>> = images.chunks(len).map(|i| alone.run(i).unwrap().to_vec()).collect();
            // Threads that the plan is cut for, and those that run it.
            for (cut, threads) in [(1, 2), (2, 1), (2, 2), (2, 5), (3, 3), (7, 3), (16, 2)] {
                let mut session = session(&net, &weights, &plan(cut), threads);
                for batch in [19, 1, 2, 16, 17, 3] {
                    let got = session.run(&images[..batch * len]).unwrap();
                    let want = want[..batch].concat();
                    let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                    let what =
                        format!("{name}, {precision:?} cut for {cut}, batch {batch}, {threads} threads");
                    assert!(same && got.len() == want.len(), "{what}");
                }
            }
        }
    }
}

/// Maps so large that plans for other numbers of threads cut most of them elsewhere.
#[test]
fn plans_for_any_number_of_threads_give_the_same_bits() {
    for name in ["mobilenet_v3_small", "mobilenet_v2", "shufflenet_v2_x1_0", "resnet18"] {
        let net = net(name, [160, 224]);
        let weights = weights(&net, 3);
        let image = Random(4).values(net.input().len());
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |threads| {
                let options = Options { precision, threads, ..Options::default() };
                session(&net, &weights, &options, 2).run(&image).unwrap().to_vec()
            };
            let want = run(1);
            for threads in [2, 3, 8, 16] {
                let same = run(threads).iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name}, {precision:?}: other bits if it is cut for {threads} threads");
            }
        }
    }
}

#[test]
fn one_plan_serves_sessions_on_several_threads() {
    let net = net("mobilenet_v3_small", [40, 40]);
    let weights = weights(&net, 1);
    let plan = Arc::new(Plan::compile(&net, &weights, &Options::default()).unwrap());
    let images: Vec<Vec<f32>> = (0..4).map(|seed| Random(seed).values(net.input().len())).collect();
    let run = |image: &[f32]| Session::new(Arc::clone(&plan), 2).unwrap().run(image).unwrap().to_vec();
    let want: Vec<Vec<f32>> = images.iter().map(|i| run(i)).collect();
    std::thread::scope(|scope| {
        for (image, want) in images.iter().zip(&want) {
            let run = &run;
            scope.spawn(move || (0..5).for_each(|_| assert_eq!(run(image), *want)));
        }
    });
}

#[test]
fn another_image_has_other_kernels() {
    for name in NAMES {
        let net = net(name, [33, 33]);
        let weights = weights(&net, 1);
        let predictors: Vec<_> =
            net.ids().filter(|id| matches!(net.node(*id).op, Op::Predictor(_))).collect();
        let options = Options { taps: predictors.clone(), ..Options::default() };
        let mut session = session(&net, &weights, &options, 2);
        let mut coefficients = |seed: u64| {
            let mut seen = Vec::new();
            let image = Random(seed).values(net.input().len());
            session.run_with_taps(&image, |_, _, values| seen.push(values.to_vec())).unwrap();
            seen
        };
        let (a, b, again) = (coefficients(1), coefficients(2), coefficients(1));
        assert_eq!(a, again, "{name}");
        for ((a, b), id) in a.iter().zip(&b).zip(&predictors) {
            assert_ne!(a, b, "{name}: {}", net.node(*id).name);
        }
    }
}

/// A predictor that gives expert 1 alone whatever it sees: zero weights, and a bias that softmax turns into 0 and 1.
fn choose_expert_1(net: &Net, weights: &mut Weights) {
    for spec in net.params().iter().filter(|s| s.name.contains("_coefficient_fn")) {
        let Op::Predictor(p) = &net.node(spec.node).op else { continue };
        let mut data = vec![0.0; spec.len()];
        if spec.shape.len() == 1 {
            for (i, head) in p.heads.iter().enumerate() {
                data[p.head_offset(i) + head.channels..][..head.channels].fill(200.0);
            }
        }
        weights.insert(spec.name.clone(), spec.shape.clone(), data);
    }
}

#[test]
fn one_hot_coefficients_give_the_static_net() {
    for name in ["mobilenet_v3_small", "shufflenet_v2_x1_0", "resnet18"] {
        let options = ZooOptions { width: 0.25, classes: 7, size: [40, 40], ..Default::default() };
        let net = zoo::build(name, &options).unwrap().to_dynamic(&DynamicOptions::default()).unwrap();
        let twin = net.twin();
        let mut dynamic = weights(&net, 1);
        choose_expert_1(&net, &mut dynamic);
        let mut fixed = Weights::new();
        for spec in twin.params() {
            let tensor = dynamic.get(&spec.name).unwrap();
            // Expert 1 of a dynamic convolution, the tensor itself of all others.
            let first = if tensor.shape == spec.shape { 0 } else { spec.len() };
            fixed.insert(spec.name.clone(), spec.shape.clone(), tensor.data[first..][..spec.len()].to_vec());
        }
        let image = Random(5).values(net.input().len());
        let want = session(&twin, &fixed, &Options::default(), 1).run(&image).unwrap().to_vec();
        let got = session(&net, &dynamic, &Options::default(), 2).run(&image).unwrap().to_vec();
        let scale = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        // The sums start otherwise: a fused weight is 0 w_0 + 1 w_1 + 0 w_2, exactly w_1, but pools are added in
        // other blocks.
        for (a, b) in got.iter().zip(&want) {
            assert!((a - b).abs() < 1e-5 * scale, "{name}: {a}, {b} expected");
        }
    }
}

#[test]
fn narrower_experts_have_the_same_bits_in_any_batch() {
    let net = net("dy_resnet50", [33, 33]);
    let weights = weights(&net, 1);
    let images = Random(3).values(3 * net.input().len());
    use Precision as P;
    for (experts, precision) in
        [(Storage::Bf16, P::F32), (Storage::Int8, P::F32), (Storage::Bf16, P::Bf16), (Storage::Int8, P::Bf16)]
    {
        let options = Options { experts, precision, ..Options::default() };
        let together = session(&net, &weights, &options, 2).run(&images).unwrap().to_vec();
        let mut alone = session(&net, &weights, &options, 1);
        let apart: Vec<f32> =
            images.chunks(net.input().len()).flat_map(|i| alone.run(i).unwrap().to_vec()).collect();
        assert_eq!(together, apart);
    }
}

#[test]
fn timing_changes_no_bit_and_tells_fusing_apart() {
    for name in ["mobilenet_v3_small", "dy_resnet50"] {
        let net = net(name, [49, 64]);
        let weights = weights(&net, 1);
        for (batch, threads) in [(1, 1), (1, 2), (3, 2)] {
            let images = Random(2).values(batch * net.input().len());
            let mut session = session(&net, &weights, &Options::default(), threads);
            let want = session.run(&images).unwrap().to_vec();
            let layers = session.plan().layers();
            let mut times = vec![StepTime::default(); layers.len()];
            assert_eq!(session.run_timed(&images, &mut times).unwrap(), want, "{name}");
            for (layer, time) in layers.iter().zip(&times) {
                let label = format!("{name}, batch {batch}, {}, {}: {time:?}", layer.name, layer.algorithm);
                // A joined layer has the time of both; kernels of one pixel are fused while they multiply.
                let fuses = layer.fusion_madds > 0 && layer.output.pixels() > 1;
                assert!(time.fusing.is_zero() || layer.fusion_madds > 0, "{label}");
                assert!(!fuses || !time.fusing.is_zero(), "{label}");
                assert!(time.fusing <= time.total, "{label}");
            }
        }
    }
}
