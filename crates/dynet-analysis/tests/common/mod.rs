//! A net whose feature maps are made up, so that what is in them is known.

use std::collections::HashMap;

use dynet_analysis::{Collector, LayerAnalysis, Layout, Map, ModelAnalysis, Options, Taps};
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

/// Outputs of all nodes for some images. Of a feature map channel 0 is noise, channel 1 repeats it, channel 2 negates it,
/// channel 3 is constant, the others share `common` of one more noise. Coefficients follow the image, but for the first
/// predictor's, which never change.
pub(crate) struct MadeUp {
    outputs: HashMap<NodeId, Vec<f32>>,
}

impl MadeUp {
    pub(crate) fn new(net: &Net, nodes: &[NodeId], images: std::ops::Range<usize>, common: f32) -> Self {
        let first = net.ids().find(|id| matches!(net.node(*id).op, Op::Predictor(_)));
        let output = |id: NodeId| -> Vec<f32> {
            let (shape, op) = (net.node(id).shape, &net.node(id).op);
            let pixels = shape.pixels();
            let at = |image: usize, place: usize| match op {
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
            images.clone().flat_map(|image| (0..shape.len()).map(move |place| at(image, place))).collect()
        };
        Self { outputs: nodes.iter().map(|id| (*id, output(*id))).collect() }
    }
}

impl Taps for MadeUp {
    fn map(&self, node: NodeId) -> Map<'_> {
        Map { data: &self.outputs[&node], layout: Layout::ChannelsFirst }
    }
}

/// The layers of a model of made-up maps, taken in by batches of `batch`.
pub(crate) fn layers(
    model: &Model,
    options: &Options,
    images: usize,
    batch: usize,
    common: f32,
) -> Vec<LayerAnalysis> {
    let mut collector = Collector::new(&model.net, options).unwrap();
    let nodes = collector.nodes();
    for start in (0..images).step_by(batch) {
        let range = start..(start + batch).min(images);
        let classes: Vec<usize> = range.clone().map(|i| i % 10).collect();
        collector.add(&MadeUp::new(&model.net, &nodes, range, common), &classes).unwrap();
    }
    collector.finish(&model.weights).unwrap()
}

/// The whole analysis of one made-up model.

pub(crate) fn analysis(label: &str, dynamic: bool, images: usize, common: f32) -> ModelAnalysis {
    let model = model(dynamic);
    let layers = layers(&model, &Options::default(), images, 10, common);
    ModelAnalysis::new(label, "made up", &model, images, Some(0.5), layers)
}
