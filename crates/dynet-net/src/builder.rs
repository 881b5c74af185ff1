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
        // After an error nothing is checked: what comes later reads nodes that are not what they seem.
        let shape = match self.error {
            Some(_) => AFTER_ERROR,
            None => self.check(name, &op, inputs).unwrap_or_else(|problem| {
                self.refuse(name, &op, problem);
                AFTER_ERROR
            }),
        };
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
        let node = described(name, op);
        self.error.get_or_insert(NetError { net: self.name.clone(), node, problem });
    }

    /// The net, whose last node must give logits, and in which no tensor's name is taken twice.
    ///
    /// # Errors
    /// The first thing that was wrong, with the node's name, expected and got.
    pub fn finish(self) -> Result<Net, NetError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let net = Net { name: self.name, nodes: self.nodes };
        match not_logits(&net).or_else(|| unread(&net)).or_else(|| twice_named(&net)) {
            None => Ok(net),
            Some((id, problem)) => {
                let Node { name, op, .. } = net.node(id);
                Err(NetError { node: described(name, op), problem, net: net.name })
            }
        }
    }
}

/// How errors name a node.
fn described(name: &str, op: &Op) -> String {
    format!("{name} ({})", op.kind())
}

fn not_logits(net: &Net) -> Option<(NodeId, String)> {
    let id = net.output();
    let Node { op, shape, .. } = net.node(id);
    let good = !matches!(op, Op::Input | Op::Predictor(_)) && shape.pixels() == 1;
    (!good).then(|| (id, format!("expected logits, c x 1 x 1, from the last node, got {shape}")))
}

/// The first node but the last whose output nobody reads.
fn unread(net: &Net) -> Option<(NodeId, String)> {
    let read: HashSet<NodeId> = net.nodes.iter().flat_map(|n| n.inputs.iter().copied()).collect();
    let id = net.ids().find(|id| *id != net.output() && !read.contains(id))?;
    Some((id, "expected a reader, got a node whose output nobody uses".into()))
}

/// The first parameter whose name an earlier one has: node names differ, but `a` with a tensor `fc.weight`
/// and `a.fc` with a tensor `weight` would share it.
fn twice_named(net: &Net) -> Option<(NodeId, String)> {
    let mut names = HashSet::new();
    let spec = net.params().into_iter().find(|spec| !names.insert(spec.name.clone()))?;
    Some((spec.node, format!("expected a new parameter name, got {}, which is taken", spec.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DynamicKernel, Head, Predictor};

    /// A net that ends in logits, with whatever `body` puts in front of them.
    fn problem(body: impl FnOnce(&mut NetBuilder, NodeId) -> NodeId) -> String {
        let mut b = NetBuilder::new("n", Shape::new(4, 8, 8));
        let x = b.input();
        let x = body(&mut b, x);
        let x = b.push("pool", Op::GlobalAvgPool, &[x]);
        b.push("fc", Op::Linear { c_out: 2 }, &[x]);
        b.finish().unwrap_err().to_string()
    }

    fn predictor(experts: usize, channels: usize) -> Op {
        let heads = vec![Head { experts, channels }];
        Op::Predictor(Predictor {
            hidden: None,
            heads,
            activation: crate::CoefActivation::Sigmoid,
            dropout: 0.0,
        })
    }

    #[test]
    fn errors_name_the_node_what_was_expected_and_what_was_got() {
        let dynamic =
            |experts| Conv2d { dynamic: Some(DynamicKernel { experts, head: 0 }), ..Conv2d::new(4, 8, 3) };
        let cases = [
            (
                problem(|b, x| b.conv("a", x, Conv2d::new(3, 8, 3))),
                "net n, node a (conv): expected 3 input channels, got 4",
            ),
            (
                problem(|b, x| b.conv("a", x, Conv2d::new(4, 8, 3).groups(3))),
                "net n, node a (conv): 4 input channels do not divide into 3 groups",
            ),
            (
                problem(|b, x| b.norm("fc", x)),
                "net n, node fc (linear): expected a new name, got one that is taken",
            ),
            (problem(|b, x| b.push("a", Op::Add, &[x])), "net n, node a (add): expected 2 inputs, got 1"),
            (
                problem(|b, x| {
                    let p = b.push("p", predictor(6, 6), &[x]);
                    b.push("a", Op::Conv2d(dynamic(6)), &[x, p])
                }),
                "net n, node a (dynamic conv): head 0: 36 coefficients, 48 needed (8 output channels x 6 experts)",
            ),
            (
                problem(|b, x| b.push("p", predictor(65, 8), &[x])),
                "net n, node p (predictor): expected 1 to 64 experts, got 65",
            ),
            (
                problem(|b, x| match predictor(2, 8) {
                    Op::Predictor(p) => {
                        b.push("p", Op::Predictor(Predictor { hidden: Some(1 << 17), ..p }), &[x])
                    }
                    other => b.push("p", other, &[x]),
                }),
                "net n, node p (predictor): hidden layer: expected 1 to 65536, got 131072",
            ),
            (
                problem(|b, x| b.conv("a", x, Conv2d::new(4, 1 << 15, 301))),
                "net n, node a (conv): kernel: [1, 32768, 4, 301, 301] is more than 2147483648 values",
            ),
            (
                problem(|b, x| b.conv("a", x, Conv2d { padding: [1 << 16, 0], ..Conv2d::new(4, 8, 3) })),
                "net n, node a (conv): padding: expected 0 to 65535, got 65536",
            ),
            (
                problem(|b, x| {
                    b.push("p", predictor(6, 6), &[x]);
                    x
                }),
                "net n, node p (predictor): expected a reader, got a node whose output nobody uses",
            ),
            (
                problem(|b, x| {
                    let p = b.push("fc.weight", predictor(2, 8), &[x]);
                    let x = b.push("a", Op::Conv2d(dynamic(2)), &[x, p]);
                    b.conv("fc.weight.fc", x, Conv2d::new(8, 8, 1))
                }),
                "net n, node fc.weight.fc (conv): expected a new parameter name, got fc.weight.fc.weight, which is taken",
            ),
        ];
        for (got, expected) in cases {
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn the_last_node_gives_logits() {
        let mut b = NetBuilder::new("n", Shape::new(4, 8, 8));
        assert!(NetBuilder::new("n", Shape::new(4, 1, 1)).finish().is_err(), "the input alone is no net");
        b.conv("a", b.input(), Conv2d::new(4, 8, 3));
        let text = b.finish().unwrap_err().to_string();
        assert_eq!(
            text,
            "net n, node a (conv): expected logits, c x 1 x 1, from the last node, got 8 x 8 x 8"
        );
    }
}
