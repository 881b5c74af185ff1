//! The network as data: nodes in the order in which they run.

use serde::{Deserialize, Serialize};

use crate::builder::{NetBuilder, NetError};
use crate::op::{CoefActivation, Op, Shape};
use crate::params::{ParamSpec, node_params};

/// Index of a node within its net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Position among [`Net::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operation with its place in the net.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Module path, as in PyTorch: `layer1.0.conv1`. Unique.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The nodes that it reads; all of them stand before it.
    pub inputs: Vec<NodeId>,
    /// Module path of the residual or shuffle unit that it belongs to, the scope of a block's predictor.
    pub block: Option<String>,
    /// Shape of its output for one image.
    pub shape: Shape,
}

/// A convolutional network: always valid, since [`NetBuilder`] is the only way to one.
///
/// Nodes stand in the order in which they run; the first is the input, the last gives the logits
/// `[classes, 1, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "NetRecord", into = "NetRecord")]
pub struct Net {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
}

impl Net {
    /// Name of the architecture: `resnet18`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All nodes, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    ///
    /// # Panics
    /// If the id belongs to another, larger net.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Looks a node up by its module path.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(NodeId)
    }

    /// Shape of one image.
    pub fn input(&self) -> Shape {
        self.nodes[0].shape
    }

    /// The node that gives the logits.
    pub fn output(&self) -> NodeId {
        NodeId(self.nodes.len() - 1)
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.node(self.output()).shape.c
    }

    /// Whether any convolution is dynamic.
    pub fn is_dynamic(&self) -> bool {
        self.nodes.iter().any(|n| matches!(n.op, Op::Predictor(_)))
    }

    /// Ids of all nodes, in the order in which they run.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// The tensors of one node.
    ///
    /// # Panics
    /// If the id belongs to another, larger net.
    pub fn params_of(&self, id: NodeId) -> Vec<ParamSpec> {
        node_params(self, id)
    }

    /// Every parameter and every running statistic, in the order of PyTorch's state dict.
    ///
    /// A predictor of one convolution is that convolution's child: it runs before it, and is listed behind
    /// it. A block's predictor is the block's child and is listed where it runs, before the convolutions that
    /// it feeds.
    pub fn params(&self) -> Vec<ParamSpec> {
        // Which convolution lists which predictor.
        let mut owners = vec![None; self.nodes.len()];
        for (id, node) in self.ids().zip(&self.nodes) {
            if let Some(predictor) = self.child_predictor(node) {
                owners[predictor.0].get_or_insert(id);
            }
        }
        let mut specs = Vec::new();
        for (id, node) in self.ids().zip(&self.nodes) {
            if owners[id.0].is_some() {
                continue;
            }
            specs.extend(node_params(self, id));
            let child = self.child_predictor(node).filter(|p| owners[p.0] == Some(id));
            specs.extend(child.into_iter().flat_map(|p| node_params(self, p)));
        }
        specs
    }

    /// The predictor whose module path lies within that of the convolution that reads it.
    fn child_predictor(&self, node: &Node) -> Option<NodeId> {
        let is_within = |id: &&NodeId| {
            let rest = self.node(**id).name.strip_prefix(&node.name);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        match &node.op {
            Op::Conv2d(c) if c.dynamic.is_some() => node.inputs.get(1).filter(is_within).copied(),
            _ => None,
        }
    }

    /// Temperature of the softmax predictors; `None` where there is none.
    pub fn temperature(&self) -> Option<f32> {
        self.nodes.iter().find_map(|n| match &n.op {
            Op::Predictor(p) => match p.activation {
                CoefActivation::Softmax { temperature } => Some(temperature),
                CoefActivation::Sigmoid => None,
            },
            _ => None,
        })
    }

    /// The same net with another temperature in every softmax predictor.
    ///
    /// # Errors
    /// A temperature that is not finite and above zero.
    pub fn with_temperature(&self, temperature: f32) -> Result<Self, NetError> {
        self.rebuild(self.input(), |op| {
            if let Op::Predictor(p) = op
                && let CoefActivation::Softmax { temperature: t } = &mut p.activation
            {
                *t = temperature;
            }
        })
    }

    /// The same net for images of another size.
    ///
    /// # Errors
    /// A size that some layer cannot take.
    pub fn with_input_size(&self, h: usize, w: usize) -> Result<Self, NetError> {
        self.rebuild(Shape::new(self.input().c, h, w), |_| {})
    }

    /// Runs every node through the builder again, for images of this shape and with its operation edited.
    fn rebuild(&self, image: Shape, mut edit: impl FnMut(&mut Op)) -> Result<Self, NetError> {
        let mut builder = NetBuilder::new(&self.name, image);
        for node in self.nodes.iter().skip(1) {
            let mut op = node.op.clone();
            edit(&mut op);
            builder.push_in(node.block.as_deref(), &node.name, op, &node.inputs);
        }
        builder.finish()
    }
}

/// The JSON of a net, not yet checked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetRecord {
    name: String,
    input: Shape,
    nodes: Vec<NodeRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRecord {
    name: String,
    op: Op,
    inputs: Vec<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<String>,
}

impl From<Net> for NetRecord {
    fn from(net: Net) -> Self {
        let input = net.input();
        let record = |n: Node| NodeRecord { name: n.name, op: n.op, inputs: n.inputs, block: n.block };
        Self { name: net.name, input, nodes: net.nodes.into_iter().skip(1).map(record).collect() }
    }
}

impl TryFrom<NetRecord> for Net {
    type Error = NetError;

    fn try_from(record: NetRecord) -> Result<Self, NetError> {
        let mut builder = NetBuilder::new(&record.name, record.input);
        for node in record.nodes {
            builder.push_in(node.block.as_deref(), &node.name, node.op, &node.inputs);
        }
        builder.finish()
    }
}
