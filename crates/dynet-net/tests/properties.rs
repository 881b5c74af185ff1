//! Properties of any net that the zoo can give, and of any JSON that claims to be a net.

use std::collections::HashSet;

use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{
    Channels, CoefActivation, Coefficients, DynamicOptions, Interpolation, Model, Net, Op, ParamKind,
    Preprocessing, Scope, Weights, cost, summary,
};
use proptest::prelude::*;
use serde_json::Value;

fn dynamic_options() -> impl Strategy<Value = DynamicOptions> {
    let coefficients = prop_oneof![Just(Coefficients::Channel), Just(Coefficients::Kernel)];
    let softmax = (0.1f32..40.0).prop_map(|temperature| CoefActivation::Softmax { temperature });
    let activation = prop_oneof![Just(CoefActivation::Sigmoid), softmax];
    let scope = prop_oneof![Just(Scope::Layer), Just(Scope::Block)];
    let squeeze = prop::option::of(1usize..20);
    (1usize..9, coefficients, activation, scope, squeeze, 0f32..0.9, any::<bool>()).prop_map(
        |(experts, coefficients, activation, scope, squeeze, dropout, outside_blocks)| DynamicOptions {
            experts,
            coefficients,
            activation,
            scope,
            squeeze,
            dropout,
            outside_blocks,
        },
    )
}

/// Any net of the zoo, narrow and for small images, by its name and options.
fn asked() -> impl Strategy<Value = (&'static str, ZooOptions)> {
    let names: Vec<&str> = zoo::models().iter().map(|info| info.name).collect();
    let width = prop_oneof![Just(0.125), Just(0.25), Just(1.0), 0.001..1.5];
    let size = [1usize..70, 1usize..70];
    let images = (1usize..5, size, any::<bool>());
    (prop::sample::select(names), width, 1usize..20, images, prop::option::of(dynamic_options())).prop_map(
        |(name, width, classes, (channels, size, small_stem), dynamic)| {
            (name, ZooOptions { width, classes, channels, size, small_stem, dynamic })
        },
    )
}

fn build((name, options): &(&str, ZooOptions)) -> Net {
    zoo::build(name, options).expect("every net is there in every size")
}

fn json(net: &Net) -> Value {
    serde_json::to_value(net).expect("a net has a JSON form")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_net_comes_back_from_its_json(asked in asked()) {
        let net = build(&asked);
        let text = serde_json::to_string(&net)?;
        prop_assert_eq!(serde_json::from_str::<Net>(&text)?, net);
    }

    #[test]
    fn a_twin_is_the_same_net_with_ordinary_convolutions(asked in asked()) {
        let net = build(&asked);
        let twin = net.twin();
        prop_assert!(!twin.is_dynamic());
        prop_assert_eq!(&twin.twin(), &twin);
        // The builder takes it too.
        prop_assert_eq!(&serde_json::from_value::<Net>(json(&twin))?, &twin);
        let rest: Vec<_> = net.nodes().iter().filter(|n| !matches!(n.op, Op::Predictor(_))).collect();
        prop_assert_eq!(rest.len(), twin.nodes().len());
        for (node, own) in twin.nodes().iter().zip(rest) {
            prop_assert_eq!((&node.name, node.shape, &node.block), (&own.name, own.shape, &own.block));
        }
        for spec in twin.params() {
            let own = net.params().into_iter().find(|s| s.name == spec.name);
            let own = own.ok_or_else(|| TestCaseError::fail(format!("{} is the twin's alone", spec.name)))?;
            let without_k = own.shape.len() - spec.shape.len();
            prop_assert!(without_k <= 1);
            prop_assert_eq!(&own.shape[without_k..], &spec.shape[..]);
            prop_assert_eq!((own.kind, own.fan_in), (spec.kind, spec.fan_in));
        }
    }

    #[test]
    fn to_dynamic_and_back_changes_nothing(asked in asked(), options in dynamic_options()) {
        let (name, options_of_net) = asked;
        let net = zoo::build(name, &ZooOptions { dynamic: None, ..options_of_net })?.twin();
        let dynamic = net.to_dynamic(&options)?;
        prop_assert!(dynamic.is_dynamic());
        prop_assert!(dynamic.to_dynamic(&options).is_err(), "not a second time");
        prop_assert_eq!(dynamic.twin(), net);
    }

    #[test]
    fn costs_of_fuse_mix_and_twin_belong_together(asked in asked()) {
        let net = build(&asked);
        let (own, twin) = (cost(&net), cost(&net.twin()));
        prop_assert_eq!(own.madds.convolutions, twin.madds.convolutions, "one fused convolution each");
        prop_assert_eq!(own.madds.classifier, twin.madds.classifier);
        prop_assert_eq!((twin.madds.fusion, twin.madds.predictors), (0, 0));
        prop_assert_eq!(twin.madds.mixed_convolutions, twin.madds.convolutions);
        for layer in &own.layers {
            let m = layer.madds;
            prop_assert_eq!(m.mixed_convolutions, layer.experts as u64 * m.convolutions, "K convolutions");
        }
        let kernels: u64 = net.params().iter().filter(|s| s.shape.len() == 5).map(|s| s.len() as u64).sum();
        prop_assert_eq!(own.madds.fusion, kernels, "each weight of each expert once");
        let of_predictors = net.params().into_iter().filter(|s| s.kind == ParamKind::PredictorWeight);
        prop_assert_eq!(own.madds.predictors, of_predictors.map(|s| s.len() as u64).sum::<u64>());
        if own.layers.iter().all(|layer| layer.experts == 1) {
            prop_assert_eq!(own.madds.mixed_convolutions, own.madds.convolutions, "K = 1");
        }
        prop_assert_eq!(summary(&net).twin.is_some(), net.is_dynamic());
    }

    #[test]
    fn names_are_unique_and_initial_weights_fit(asked in asked()) {
        let (name, options) = asked;
        let net = build(&(name, ZooOptions { width: options.width.min(0.25), ..options }));
        let names: HashSet<String> = net.params().into_iter().map(|s| s.name).collect();
        prop_assert_eq!(names.len(), net.params().len());
        let of_nodes: usize = net.ids().map(|id| net.params_of(id).len()).sum();
        prop_assert_eq!(of_nodes, names.len(), "each node's tensors are listed once");
        if cost(&net).params < 2_000_000 {
            Weights::init(&net, 1).check(&net)?;
        }
    }

    #[test]
    fn heads_lie_behind_one_another(asked in asked()) {
        let net = build(&asked);
        for node in net.nodes() {
            if let Op::Conv2d(c) = &node.op && let Some(d) = c.dynamic {
                let Op::Predictor(p) = &net.node(node.inputs[1]).op else {
                    return Err(TestCaseError::fail("coefficients come from a predictor"));
                };
                let end = p.head_offset(d.head) + p.heads[d.head].len();
                prop_assert!(end <= p.coefficients());
                prop_assert_eq!(p.heads[d.head].experts, d.experts);
            }
        }
    }

    /// Whatever number of a net's JSON is changed to whatever: an error or a net that all can read, no panic.
    #[test]
    fn no_json_makes_a_net_that_panics(
        asked in asked(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), number()), 1..3),
    ) {
        let mut value = json(&build(&asked));
        for (at, number) in edits {
            let mut places = Vec::new();
            numbers(&mut value, &mut places);
            *places.swap_remove(at.index(places.len())) = number;
        }
        if let Ok(net) = serde_json::from_value::<Net>(value) {
            let (own, twin) = (cost(&net), summary(&net).twin);
            prop_assert!(own.madds.fused_total() >= own.madds.convolutions);
            prop_assert_eq!(twin.is_some(), net.is_dynamic());
            prop_assert_eq!(&serde_json::from_value::<Net>(json(&net.twin()))?, &net.twin());
            prop_assert!(net.params().iter().all(|s| s.len() <= dynet_net::MAX_VALUES));
            let _fits_or_not = net.with_input_size(3, 5);
        }
    }
}

/// Numbers around everything that a limit may be.
fn number() -> impl Strategy<Value = Value> {
    let edges = [0, 1, 2, 3, 64, 65, 65535, 65536, 65537, 1 << 31, 1 << 32, 1 << 62, u64::MAX / 2, u64::MAX];
    prop_oneof![
        prop::sample::select(edges.to_vec()).prop_map(Value::from),
        (0u64..300).prop_map(Value::from),
        (-2.0..2.0).prop_map(Value::from),
    ]
}

fn numbers<'a>(value: &'a mut Value, places: &mut Vec<&'a mut Value>) {
    match value {
        Value::Number(_) => places.push(value),
        Value::Array(list) => list.iter_mut().for_each(|v| numbers(v, places)),
        Value::Object(map) => map.iter_mut().for_each(|(_, v)| numbers(v, places)),
        _ => {}
    }
}

#[test]
fn every_truncation_of_a_model_file_is_an_error() {
    let options = ZooOptions {
        width: 0.125,
        classes: 2,
        channels: 1,
        size: [8, 8],
        small_stem: true,
        ..Default::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    for name in ["dy_resnet18", "dy_shuffle_x1_0"] {
        let net = zoo::build(name, &options).unwrap();
        let preprocessing = Preprocessing {
            resize: None,
            crop: [8, 8],
            interpolation: Interpolation::Bilinear,
            channels: Channels::Gray,
            mean: vec![0.5],
            std: vec![0.5],
        };
        let labels = vec!["no".into(), "yes".into()];
        let model = Model { weights: Weights::init(&net, 1), net, labels, preprocessing };
        model.write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(Model::from_bytes(&bytes).unwrap(), model);
        // Every length around the header, and a sample of the others.
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let near = |len: usize| len < 64 || len.abs_diff(header) < 64 || bytes.len() - len < 64;
        for len in (0..bytes.len()).filter(|&len| near(len) || len % 4093 == 0) {
            assert!(Model::from_bytes(&bytes[..len]).is_err(), "{name}: {len} of {} bytes", bytes.len());
        }
    }
}
