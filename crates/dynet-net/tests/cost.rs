//! Costs held against published figures: torchvision's parameter counts, the paper's multiply-adds and cuts.

use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Net, cost, summary};

/// 2^20. The paper writes M for this (ResNets, ShuffleNets) as well as for 10^6 (MobileNets).
const MI: f64 = (1 << 20) as f64;
const M: f64 = 1e6;

fn net(name: &str) -> Net {
    zoo::build(name, &ZooOptions::default()).expect("a net of the zoo at its own sizes")
}

/// `value` printed with one decimal.
fn round(value: f64) -> String {
    format!("{value:.1}")
}

#[test]
fn parameters_of_static_nets_are_torchvisions_to_the_digit() {
    for (name, params) in [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_small", 2_542_856),
        ("mobilenet_v3_large", 5_483_032),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("shufflenet_v2_x1_5", 3_503_624),
    ] {
        assert_eq!(cost(&net(name)).params, params, "{name}");
    }
}

#[test]
fn resnets_count_convolutions_and_classifier_in_mi() {
    for (name, mi) in
        [("resnet18", "1730.0"), ("resnet50", "3899.8"), ("dy_resnet18", "550.7"), ("dy_resnet50", "1075.1")]
    {
        let madds = cost(&net(name)).madds;
        assert_eq!(round((madds.convolutions + madds.classifier) as f64 / MI), mi, "{name}");
    }
}

#[test]
fn mobile_and_shuffle_count_convolutions_alone() {
    for (name, unit, expected) in [("dy_mobile", M, "129.3"), ("dy_shuffle_x1_0", MI, "88.2")] {
        assert_eq!(round(cost(&net(name)).madds.convolutions as f64 / unit), expected, "{name}");
    }
    let wide = cost(&net("dy_shuffle_x1_5")).madds.convolutions as f64 / MI;
    assert!((168.0..169.0).contains(&wide), "dy_shuffle_x1_5: {wide} Mi, the paper has 171");
}

#[test]
fn fusion_and_predictors_included_the_cuts_are_the_papers() {
    let full = |name| cost(&net(name)).madds.fused_total() as f64;
    let bare = |name| {
        let madds = cost(&net(name)).madds;
        (madds.fused_total() - madds.classifier) as f64
    };
    // ResNets against the static net counted alike; the others, without classifier, against the paper's
    // figure for the static net: 298 M of MobileNetV2, 146 M of ShuffleNetV2.
    for (name, ratio, cut) in [
        ("dy_resnet18", full("dy_resnet18") / full("resnet18"), "67.2"),
        ("dy_resnet50", full("dy_resnet50") / full("resnet50"), "71.3"),
        ("dy_mobile", bare("dy_mobile") / (298.0 * M), "54.7"),
        ("dy_shuffle_x1_0", bare("dy_shuffle_x1_0") / (146.0 * MI), "36.9"),
    ] {
        assert_eq!(round(100.0 * (1.0 - ratio)), cut, "{name}");
    }
}

#[test]
fn a_layer_by_hand() {
    // dy_resnet18's first block: 64 channels in, 32 out, 56 x 56, K = 6; its predictor has 64 / 4 = 16 hidden
    // units and feeds conv1, conv2 and the projection.
    let cost = cost(&net("dy_resnet18"));
    let layer = |name: &str| cost.layers.iter().find(|l| l.name == name).unwrap();
    let conv = layer("layer1.0.conv1");
    assert_eq!((conv.experts, conv.params), (6, 6 * 32 * 64 * 9));
    assert_eq!(conv.madds.convolutions, 32 * 64 * 9 * 56 * 56);
    assert_eq!(conv.madds.mixed_convolutions, 6 * conv.madds.convolutions);
    assert_eq!(conv.madds.fusion, 6 * 32 * 64 * 9);
    let predictor = layer("layer1.0._coefficient_fn");
    let coefficients = 3 * 6 * 32;
    assert_eq!(predictor.madds.predictors, 64 * 16 + 16 * coefficients);
    assert_eq!(predictor.params, 64 * 16 + 16 + 16 * coefficients + coefficients);
    assert_eq!(layer("conv1").experts, 1);
    assert_eq!(layer("fc").madds.classifier, 256 * 1000);
}

#[test]
fn the_summary_is_one_object_of_plain_counts() {
    let json = serde_json::to_value(summary(&net("dy_resnet18"))).unwrap();
    for key in ["convolutions", "classifier", "predictors", "fusion", "mixed_convolutions"] {
        assert!(json["madds"][key].is_u64(), "{key}");
        assert!(json["twin"]["madds"][key].is_u64(), "twin: {key}");
    }
    assert!(json["params"].as_u64() > json["twin"]["params"].as_u64());
    assert_eq!(json["twin"]["madds"]["convolutions"], json["madds"]["convolutions"]);
    assert_eq!(json["twin"]["madds"]["fusion"], 0);
    assert_eq!(json["layers"][0]["name"], "conv1");
    assert_eq!(json["layers"][0]["output"], serde_json::json!([64, 112, 112]));
    assert!(serde_json::to_value(summary(&net("resnet18"))).unwrap()["twin"].is_null());
}
