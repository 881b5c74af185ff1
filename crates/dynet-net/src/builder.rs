//! The only way to a [`Net`]: checks names, inputs, channels and sizes as nodes are added.

use std::collections::HashSet;

use crate::net::{Net, Node, NodeId};
use crate::op::{Activation, Conv2d, Op, Shape};
use crate::shape::infer;

/// Why a net cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("net {net}, node {node}: {problem}")]
pub struct NetError {
    /// Name of the net.
    pub net: String,
    /// Name of the node, with its operation.
    pub node: String,
    /// Expected and got.
    pub problem: String,
}

/// Shape of a node that is wrong. After an error only ids matter, which must stay valid for later calls, and
/// sizes that no arithmetic trips over.
const AFTER_ERROR: Shape = Shape::new(1, 1, 1);

/// Adds nodes one by one. The first error is kept and told by [`NetBuilder::finish`], so that an
/// architecture reads as a plain list of calls.
pub struct NetBuilder {
    name: String,
    nodes: Vec<Node>,
    names: HashSet<String>,
    block: Option<String>,
    error: Option<NetError>,
}

impl NetBuilder {
    /// A net that takes images of this shape.
    pub fn new(name: &str, image: Shape) -> Self {
        let mut builder = Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            names: HashSet::new(),
            block: None,
            error: None,
        };
        // The input stands in any case, so that node 0 exists whatever else goes wrong.
        let op = Op::Input;
        let shape = infer(&op, &[], image).unwrap_or_else(|problem| {
            builder.refuse("input", &op, problem);
            AFTER_ERROR
        });
        builder.names.insert("input".into());
        builder.nodes.push(Node { name: "input".into(), op, inputs: vec![], block: None, shape });
        builder
    }

    /// The node of the images.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Shape of a node's output.
    ///
    /// # Panics
    /// If the id comes from another builder.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.nodes[id.0].shape
    }

    /// Channels of a node's output.
    pub fn channels(&self, id: NodeId) -> usize {
        self.shape(id).c
    }

    /// Nodes added from here on belong to this block, up to [`NetBuilder::end_block`].
    pub fn begin_block(&mut self, name: &str) {
        self.block = Some(name.to_owned());
    }

    /// Nodes added from here on belong to no block.
    pub fn end_block(&mut self) {
        self.block = None;
    }

    /// Adds a node to the current block.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        let block = self.block.clone();
        self.push_in(block.as_deref(), name, op, inputs)
    }

    /// Adds a convolution.
    pub fn conv(&mut self, name: &str, x: NodeId, conv: Conv2d) -> NodeId {
        self.push(name, Op::Conv2d(conv), &[x])
    }

    /// Adds a batch normalisation with PyTorch's defaults.
    pub fn norm(&mut self, name: &str, x: NodeId) -> NodeId {
        self.push(name, Op::BatchNorm { eps: 1e-5, momentum: 0.1 }, &[x])
    }

    /// Adds an activation, named after its input.
    pub fn act(&mut self, x: NodeId, activation: Activation) -> NodeId {
        let op = Op::Activation(activation);
        let name = format!("{}.{}", self.nodes[x.0].name, op.kind());
        self.push(&name, op, &[x])
    }

    pub(crate) fn push_in(&mut self, block: Option<&str>, name: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        let shape = self.check(name, &op, inputs).unwrap_or_else(|problem| {
            self.refuse(name, &op, problem);
            AFTER_ERROR
        });
        let inputs = inputs.to_vec();
        self.names.insert(name.to_owned());
        self.nodes.push(Node { name: name.to_owned(), op, inputs, block: block.map(str::to_owned), shape });
        NodeId(self.nodes.len() - 1)
    }

    fn check(&self, name: &str, op: &Op, inputs: &[NodeId]) -> Result<Shape, String> {
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            return Err("expected a name of 1 to 256 printable characters".into());
        }
        if self.names.contains(name) {
            return Err("expected a new name, got one that is taken".into());
        }
        if matches!(op, Op::Input) {
            return Err("expected one input node, got a second".into());
        }
        let read = |id: &NodeId| match self.nodes.get(id.0) {
            Some(node) => Ok((&node.op, node.shape)),
            None => Err(format!("expected inputs among the {} nodes before, got {}", self.nodes.len(), id.0)),
        };
        let inputs = inputs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        infer(op, &inputs, self.nodes[0].shape)
    }

    fn refuse(&mut self, name: &str, op: &Op, problem: String) {
        let node = format!("{name} ({})", op.kind());
        self.error.get_or_insert(NetError { net: self.name.clone(), node, problem });
    }

    /// The net, whose last node must give logits, and in which no tensor's name is taken twice.
    ///
    /// # Errors
    /// The first thing that was wrong, with the node's name, expected and got.
    pub fn finish(mut self) -> Result<Net, NetError> {
        let last = self.nodes.len() - 1;
        let Node { name, op, shape, .. } = self.nodes[last].clone();
        if last == 0 || matches!(op, Op::Predictor(_)) || shape.pixels() != 1 {
            self.refuse(&name, &op, format!("expected logits, c x 1 x 1, from the last node, got {shape}"));
        }
        if let Some(unread) = self.unread() {
            let Node { name, op, .. } = self.nodes[unread].clone();
            self.refuse(&name, &op, "expected a reader, got a node whose output nobody uses".into());
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        let net = Net { name: self.name, nodes: self.nodes };
        match twice_named(&net) {
            Some(error) => Err(error),
            None => Ok(net),
        }
    }

    /// The first node but the last whose output nobody reads.
    fn unread(&self) -> Option<usize> {
        let read: HashSet<usize> = self.nodes.iter().flat_map(|n| n.inputs.iter().map(|i| i.0)).collect();
        (0..self.nodes.len() - 1).find(|i| !read.contains(i))
    }
}

/// The first parameter whose name an earlier one has: node names differ, but `a` with a tensor `fc.weight` and
/// `a.fc` with a tensor `weight` would share it.
fn twice_named(net: &Net) -> Option<NetError> {
    let mut names = HashSet::new();
    let spec = net.params().into_iter().find(|spec| !names.insert(spec.name.clone()))?;
    let node = net.node(spec.node);
    Some(NetError {
        net: net.name.clone(),
        node: format!("{} ({})", node.name, node.op.kind()),
        problem: format!("expected a new parameter name, got {}, which is taken", spec.name),
    })
}
