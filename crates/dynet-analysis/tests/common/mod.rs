//! A net whose feature maps are made up, so that what is in them is known.

use dynet_analysis::{Collector, LayerAnalysis, ModelAnalysis, Options};
use dynet_net::zoo::ZooOptions;
use dynet_net::{
    Channels, DynamicOptions, Interpolation, Model, Net, NodeId, Op, Preprocessing, Weights, zoo,
};

/// A small dynamic net, or its twin, with initial weights.
pub(crate) fn model(dynamic: bool) -> Model {
    let options = ZooOptions {
        width: 0.125,
        classes: 10,
        channels: 1,
        size: [28, 28],
        small_stem: true,
        ..Default::default()
    };
    let net = zoo::build("resnet18", &options).unwrap();
    let net = if dynamic {
        net.to_dynamic(&DynamicOptions { experts: 4, ..Default::default() }).unwrap()
    } else {
        net
    };
    let preprocessing = Preprocessing {
        resize: None,
        crop: [28, 28],
        interpolation: Interpolation::Bilinear,
        channels: Channels::Gray,
        mean: vec![0.5],
        std: vec![0.25],
    };
    let labels = (0..10).map(|c| format!("class <{c}> & more")).collect();
    Model { weights: Weights::init(&net, 7), net, labels, preprocessing }
}

/// A value between -0.5 and 0.5 that looks random.
pub(crate) fn noise(key: [usize; 3]) -> f32 {
    let mut x =
        key.iter().fold(11u64, |h, k| (h ^ *k as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    x = (x ^ x >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> 40) as f32 / (1 << 24) as f32 - 0.5
}

/// The output of a node for one image. Of a feature map channel 0 is noise, channel 1 repeats it, channel 2 negates it,
/// channel 3 is constant, the others share `common` of one more noise. Coefficients follow the image's class, but for the
/// first predictor's, which never change.
pub(crate) fn output(net: &Net, id: NodeId, image: usize, common: f32) -> Vec<f32> {
    let first = net.ids().find(|id| matches!(net.node(*id).op, Op::Predictor(_)));
    let (shape, op) = (net.node(id).shape, &net.node(id).op);
    let pixels = shape.pixels();
    let at = |place: usize| match op {
        Op::Predictor(_) if Some(id) == first => 0.25,
        Op::Predictor(_) => 0.25 + 0.4 * noise([image % 10, place, id.index()]),
        _ => {
            let (channel, pixel) = (place / pixels, image * pixels + place % pixels);
            let value = |c: usize| noise([pixel, c, id.index()]);
            match channel {
                0 => value(0),
                1 => 2.0 * value(0) + 1.0,
                2 => -value(0),
                3 => 0.0,
                c => common * value(1) + (1.0 - common) * value(c),
            }
        }
    };
    (0..shape.len()).map(at).collect()
}

/// The layers of a model of made-up maps.
pub(crate) fn layers(model: &Model, options: &Options, images: usize, common: f32) -> Vec<LayerAnalysis> {
    let mut collector = Collector::new(&model.net, options).unwrap();
    for image in 0..images {
        for node in collector.nodes() {
            collector.look(image, node, &output(&model.net, node, image, common)).unwrap();
        }
    }
    collector.finish(&model.weights, &(0..images).map(|i| i % 10).collect::<Vec<_>>()).unwrap()
}

/// The whole analysis of one made-up model.
pub(crate) fn analysis(label: &str, dynamic: bool, images: usize, common: f32) -> ModelAnalysis {
    let model = model(dynamic);
    let layers = layers(&model, &Options::default(), images, common);
    ModelAnalysis::new(label, "made up", &model, images, Some(0.5), layers)
}
