//! What of a net is looked at: the feature map of each convolution, and the coefficients of the dynamic ones.

use dynet_net::{Conv2d, Net, NodeId, Op, Shape};
use serde::Serialize;

/// Which output of a convolution is its feature map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MapKind {
    /// What the next layer reads: after batch norm and activation where they follow the convolution alone.
    #[default]
    Activated,
    /// After batch norm, before the activation.
    Normalised,
    /// The convolution's own output.
    Raw,
}

/// A convolution and what is read of it.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) conv: Conv2d,
    pub(crate) shape: Shape,
    /// The node whose output is the feature map.
    pub(crate) map: NodeId,
    pub(crate) coefficients: Option<CoefSource>,
}

/// Where the coefficients of a dynamic convolution stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoefSource {
    pub(crate) predictor: NodeId,
    /// First one of this convolution among the predictor's outputs.
    pub(crate) offset: usize,
    pub(crate) experts: usize,
    pub(crate) channels: usize,
}

/// All convolutions of a net that see more than one position, in the order in which they run. Those on pooled features
/// (squeeze-and-excitation) have no feature map.
pub(crate) fn layers(net: &Net, kind: MapKind) -> Vec<Layer> {
    let readers = readers(net);
    let mut found = Vec::new();
    for (id, node) in net.ids().zip(net.nodes()) {
        let Op::Conv2d(conv) = &node.op else { continue };
        if reads_pooled(net, id) {
            continue;
        }
        let coefficients = conv.dynamic.and_then(|d| {
            let predictor = *node.inputs.get(1)?;
            let Op::Predictor(p) = &net.node(predictor).op else { return None };
            let channels = p.heads.get(d.head)?.channels;
            Some(CoefSource { predictor, offset: p.head_offset(d.head), experts: d.experts, channels })
        });
        let map = feature_map(net, &readers, id, kind);
        found.push(Layer {
            name: node.name.clone(),
            conv: conv.clone(),
            shape: node.shape,
            map,
            coefficients,
        });
    }
    found
}

/// Whether a node reads pooled features through nodes that keep them single values.
fn reads_pooled(net: &Net, id: NodeId) -> bool {
    let mut at = id;
    while let Some(input) = net.node(at).inputs.first() {
        let node = net.node(*input);
        if matches!(node.op, Op::GlobalAvgPool) {
            return true;
        }
        if node.shape.pixels() != 1 {
            return false;
        }
        at = *input;
    }
    false
}

/// The nodes that read each node.
fn readers(net: &Net) -> Vec<Vec<NodeId>> {
    let mut readers = vec![Vec::new(); net.nodes().len()];
    for (id, node) in net.ids().zip(net.nodes()) {
        node.inputs.iter().for_each(|i| readers[i.index()].push(id));
    }
    readers
}

fn feature_map(net: &Net, readers: &[Vec<NodeId>], conv: NodeId, kind: MapKind) -> NodeId {
    let follow = |at: NodeId, wanted: fn(&Op) -> bool| match readers[at.index()][..] {
        [next] if wanted(&net.node(next).op) => Some(next),
        _ => None,
    };
    if kind == MapKind::Raw {
        return conv;
    }
    let norm = follow(conv, |op| matches!(op, Op::BatchNorm { .. })).unwrap_or(conv);
    if kind == MapKind::Normalised {
        return norm;
    }
    follow(norm, |op| matches!(op, Op::Activation(_))).unwrap_or(norm)
}

/// A kernel in words: `3x3, stride 2, 96 groups`.
pub(crate) fn describe(conv: &Conv2d) -> String {
    let [kh, kw] = conv.kernel;
    let mut text = format!("{kh}x{kw}");
    if conv.stride != [1, 1] {
        text += &format!(", stride {}", conv.stride[0]);
    }
    if conv.dilation != [1, 1] {
        text += &format!(", dilation {}", conv.dilation[0]);
    }
    if conv.groups > 1 && conv.groups == conv.c_in {
        text += ", depthwise";
    } else if conv.groups > 1 {
        text += &format!(", {} groups", conv.groups);
    }
    if let Some(d) = conv.dynamic {
        text += &format!(", K = {}", d.experts);
    }
    text
}

#[cfg(test)]
mod tests {
    use dynet_net::zoo;

    use super::*;

    fn names(net: &Net, kind: MapKind) -> Vec<(String, String)> {
        layers(net, kind).iter().map(|l| (l.name.clone(), net.node(l.map).name.clone())).collect()
    }

    #[test]
    fn the_map_of_a_residual_branch_ends_before_the_sum() {
        let net = zoo::build("resnet18", &Default::default()).unwrap();
        let found = names(&net, MapKind::Activated);
        assert_eq!(found.len(), 20);
        let map = |name: &str| found.iter().find(|f| f.0 == name).map(|f| f.1.as_str());
        assert_eq!(map("layer1.0.conv2"), Some("layer1.0.bn2"));
        assert!(map("conv1").unwrap().contains("relu"), "{:?}", map("conv1"));
        assert_eq!(names(&net, MapKind::Raw)[3].0, names(&net, MapKind::Raw)[3].1);
    }

    #[test]
    fn squeeze_and_excitation_has_no_feature_map() {
        let net = zoo::build("mobilenet_v3_small", &Default::default()).unwrap();
        let found = names(&net, MapKind::Activated);
        assert!(found.iter().all(|f| !f.0.contains(".fc")), "{found:?}");
        assert!(found.len() > 30);
    }

    #[test]
    fn every_dynamic_convolution_has_its_coefficients() {
        let net = zoo::build("dy_resnet18", &Default::default()).unwrap();
        let dynamic: Vec<Layer> =
            layers(&net, MapKind::Activated).into_iter().filter(|l| l.conv.dynamic.is_some()).collect();
        assert!(!dynamic.is_empty());
        for layer in dynamic {
            let c = layer.coefficients.unwrap();
            let coefficients = net.node(c.predictor).shape.c;
            assert!(c.offset + c.experts * c.channels <= coefficients, "{}", layer.name);
        }
    }
}
