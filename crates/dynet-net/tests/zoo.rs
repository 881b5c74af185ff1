//! The zoo held against torchvision: names, order and shapes of every state dict, static and dynamic.
//!
//! `tools/golden/net_params.py` makes the golden file; its `--list` prints what is hashed.

use dynet_net::zoo::{self, ZooError, ZooOptions};
use dynet_net::{Conv2d, DynamicOptions, Net, Op, ParamSpec, Scope, Shape};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Golden {
    nets: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    experts: usize,
    width: f64,
    classes: usize,
    tensors: usize,
    parameters: usize,
    sha256: String,
}

fn lines(net: &Net) -> Vec<String> {
    let line = |spec: ParamSpec| {
        let sizes: Vec<String> = spec.shape.iter().map(usize::to_string).collect();
        format!("{} {}", spec.name, sizes.join(" "))
    };
    net.params().into_iter().map(line).collect()
}

fn names(net: &Net) -> Vec<String> {
    net.params().into_iter().map(|spec| spec.name).collect()
}

fn built(name: &str) -> Net {
    zoo::build(name, &ZooOptions::default()).expect("a net of the zoo at its own sizes")
}

#[test]
fn names_order_and_shapes_are_torchvisions() {
    let golden: Golden = serde_json::from_str(include_str!("golden/net_params.json")).unwrap();
    assert_eq!(
        golden.nets.len(),
        7 * 2 + 3 * 3,
        "seven nets, static and dynamic, and MobileNets of three widths"
    );
    for entry in golden.nets {
        let Entry { name, experts, width, classes, .. } = entry;
        let dynamic = (experts > 0).then(|| DynamicOptions { experts, ..Default::default() });
        let net = zoo::build(&name, &ZooOptions { width, classes, dynamic, ..Default::default() }).unwrap();
        let what = format!("{name}+{experts}, width {width}");
        let trainable = |spec: &ParamSpec| if spec.is_trainable() { spec.len() } else { 0 };
        assert_eq!(net.params().iter().map(trainable).sum::<usize>(), entry.parameters, "{what}: parameters");
        let lines = lines(&net);
        assert_eq!(lines.len(), entry.tensors, "{what}: tensors");
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, entry.sha256, "{what}: names, order or shapes; ours are\n{text}");
    }
}

#[test]
fn a_predictor_is_listed_as_the_child_that_it_is() {
    let seed = ZooOptions { dynamic: Some(DynamicOptions::default()), ..Default::default() };
    let net = zoo::build("resnet18", &seed).unwrap();
    let conv = names(&net).iter().position(|n| n == "layer1.0.conv1.weight").unwrap();
    assert_eq!(
        names(&net)[conv + 1..conv + 4],
        ["conv1._coefficient_fn.fc.weight", "conv1._coefficient_fn.fc.bias", "bn1.weight"]
            .map(|n| format!("layer1.0.{n}")),
        "of a convolution: behind its weight"
    );
    let names = names(&built("dy_resnet18"));
    let block = names.iter().position(|n| n.starts_with("layer1.0.")).unwrap();
    assert_eq!(
        names[block..block + 5],
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
            .map(|n| format!("layer1.0._coefficient_fn.{n}"))
            .into_iter()
            .chain(["layer1.0.conv1.weight".into()])
            .collect::<Vec<_>>(),
        "of a block: before its convolutions"
    );
}

#[test]
fn an_entry_says_what_its_net_is() {
    assert_eq!(zoo::models().len(), 15);
    for info in zoo::models() {
        let net = built(info.name);
        assert_eq!(net.name(), info.name);
        assert_eq!(net.is_dynamic(), info.is_dynamic, "{}", info.name);
        assert_eq!(info.dynamic().is_some(), info.is_dynamic, "{}", info.name);
        assert_eq!((net.input(), net.classes()), (Shape::new(3, 224, 224), 1000), "{}", info.name);
        let last = net.nodes().iter().rev().find(|n| n.shape.pixels() > 1).unwrap();
        assert_eq!([last.shape.h, last.shape.w], [7, 7], "{}: before the pooling", info.name);
    }
}

#[test]
fn a_small_stem_leaves_out_a_factor_of_four() {
    for info in zoo::models() {
        let options =
            ZooOptions { size: [28, 28], channels: 1, classes: 10, small_stem: true, ..Default::default() };
        let net = zoo::build(info.name, &options).unwrap();
        let last = net.nodes().iter().rev().find(|n| n.shape.pixels() > 1).unwrap();
        assert_eq!([last.shape.h, last.shape.w], [4, 4], "{}: 28 / 8", info.name);
        assert_eq!((net.input().c, net.classes()), (1, 10));
    }
}

#[test]
fn options_of_a_paper_net_take_the_place_of_its_own_but_not_outside_its_blocks() {
    let asked = DynamicOptions { experts: 2, scope: Scope::Layer, ..Default::default() };
    for info in zoo::models().iter().filter(|info| info.is_dynamic) {
        let options = ZooOptions { dynamic: Some(asked), ..Default::default() };
        let (own, net) = (built(info.name), zoo::build(info.name, &options).unwrap());
        assert_eq!(own.twin(), net.twin(), "{}", info.name);
        let dynamic = |net: &Net| {
            let is_dynamic = |spec: &ParamSpec| spec.shape.len() == 5;
            net.params().into_iter().filter(is_dynamic).map(|s| (s.name, s.shape[0])).collect::<Vec<_>>()
        };
        let expected: Vec<_> = dynamic(&own).into_iter().map(|(name, _)| (name, 2)).collect();
        assert_eq!(dynamic(&net), expected, "{}", info.name);
        assert_eq!((own.temperature(), net.temperature()), (None, Some(1.0)), "{}", info.name);
    }
}

/// The convolution of a node.
fn conv<'a>(net: &'a Net, name: &str) -> &'a Conv2d {
    match &net.node(net.find(name).expect(name)).op {
        Op::Conv2d(conv) => conv,
        other => panic!("{name}: expected a convolution, got {}", other.kind()),
    }
}

/// Name of the node that a block's predictor reads, and the output channels that it feeds.
fn predictor<'a>(net: &'a Net, name: &str) -> (&'a str, Option<usize>, Vec<usize>) {
    let node = net.node(net.find(name).expect(name));
    let Op::Predictor(p) = &node.op else { panic!("{name}: expected a predictor, got {}", node.op.kind()) };
    assert!(p.heads.iter().all(|head| head.experts == 6), "{name}: K");
    let channels = p.heads.iter().map(|head| head.channels).collect();
    (&net.node(node.inputs[0]).name, p.hidden, channels)
}

#[test]
fn blocks_are_the_papers() {
    let net = built("dy_resnet18");
    let first = predictor(&net, "layer1.0._coefficient_fn");
    assert_eq!(first, ("maxpool", Some(64 / 4), vec![32, 32, 32]), "block input; conv1, conv2, projection");
    let net = built("dy_resnet50");
    let second = predictor(&net, "layer2.1._coefficient_fn");
    assert_eq!(second, ("layer2.0.add.relu", Some(256 / 4), vec![64, 64, 256]));

    let net = built("dy_mobile");
    assert_eq!(predictor(&net, "features.3._coefficient_fn"), ("features.2.conv.3", None, vec![24, 24, 24]));
    let middle = conv(&net, "features.4.conv.1.0");
    assert_eq!(
        (middle.c_out, middle.groups),
        (36, 6),
        "32 rounded up to a multiple of 6, groups of 6 channels"
    );
    assert!(conv(&net, "features.1.conv.0.0").dynamic.is_none(), "the first block stays static");

    let net = built("dy_shuffle_x1_0");
    assert_eq!(net.node(net.find("stage3.1.left").unwrap()).shape.c, 174, "232 split 3 : 1");
    let unit = predictor(&net, "stage3.1._coefficient_fn");
    assert_eq!(unit, ("stage3.1.right", None, vec![58, 58, 58]));
    assert_eq!(conv(&net, "stage3.1.branch2.3").groups, 29, "groups of two");
    assert_eq!(predictor(&net, "stage2.1._coefficient_fn").2, [30, 30, 28], "a quarter of 116 is 29");
    let down = predictor(&net, "stage3.0._coefficient_fn");
    assert_eq!(down, ("stage2.3.shuffle", None, vec![116, 116, 116]), "the right branch alone");
}

#[test]
fn in_mobilenets_every_convolution_of_a_block_is_dynamic_but_squeeze_and_excitation() {
    for (name, blocks) in
        [("dy_mobilenet_v2", 17), ("dy_mobilenet_v3_small", 11), ("dy_mobilenet_v3_large", 15)]
    {
        let net = built(name);
        let predictors = net.nodes().iter().filter(|n| matches!(n.op, Op::Predictor(_))).count();
        assert_eq!(predictors, blocks, "{name}: one predictor a block");
        for node in net.nodes() {
            if let Op::Conv2d(c) = &node.op {
                let excites = node.name.ends_with(".fc1") || node.name.ends_with(".fc2");
                assert_eq!(c.dynamic.is_some(), node.block.is_some() && !excites, "{name}: {}", node.name);
            }
        }
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest() {
    for (name, nearest) in
        [("resnet-18", "resnet18"), ("dy_resnet_50", "dy_resnet50"), ("mobilenetv2", "mobilenet_v2")]
    {
        let error = zoo::build(name, &ZooOptions::default()).unwrap_err();
        assert_eq!(error, ZooError::Unknown { name: name.into(), nearest });
    }
}

#[test]
fn absurd_options_are_errors_that_name_the_option() {
    let base = ZooOptions::default;
    let dynamic = |o: DynamicOptions| ZooOptions { dynamic: Some(o), ..base() };
    let own = DynamicOptions::default;
    let softmax = |temperature| dynet_net::CoefActivation::Softmax { temperature };
    let cases = [
        ("width", ZooOptions { width: 0.0, ..base() }),
        ("width", ZooOptions { width: -1.0, ..base() }),
        ("width", ZooOptions { width: f64::NAN, ..base() }),
        ("width", ZooOptions { width: f64::INFINITY, ..base() }),
        ("width", ZooOptions { width: 1e9, ..base() }),
        ("classes", ZooOptions { classes: 0, ..base() }),
        ("classes", ZooOptions { classes: usize::MAX, ..base() }),
        ("channels", ZooOptions { channels: 0, ..base() }),
        ("channels", ZooOptions { channels: 1 << 40, ..base() }),
        ("size (height)", ZooOptions { size: [0, 224], ..base() }),
        ("size (width)", ZooOptions { size: [224, usize::MAX], ..base() }),
        ("more than", ZooOptions { size: [65536, 65536], ..base() }),
        ("experts (K)", dynamic(DynamicOptions { experts: 0, ..own() })),
        ("experts (K)", dynamic(DynamicOptions { experts: usize::MAX, ..own() })),
        ("squeeze", dynamic(DynamicOptions { squeeze: Some(0), ..own() })),
        ("dropout", dynamic(DynamicOptions { dropout: 1.0, ..own() })),
        ("dropout", dynamic(DynamicOptions { dropout: f32::NAN, ..own() })),
        ("temperature", dynamic(DynamicOptions { activation: softmax(0.0), ..own() })),
        ("temperature", dynamic(DynamicOptions { activation: softmax(f32::NAN), ..own() })),
    ];
    for (part, options) in cases {
        for info in zoo::models() {
            let text = zoo::build(info.name, &options).unwrap_err().to_string();
            assert!(text.contains(part), "{}, {options:?}: {part} not in: {text}", info.name);
        }
    }
    let widest = ZooOptions { width: zoo::MAX_WIDTH, ..base() };
    assert!(zoo::build("resnet50", &widest).is_err(), "kernels of more than MAX_VALUES");
}
