//! Static nets made dynamic, and dynamic nets made static again: their twins.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::builder::{NetBuilder, NetError};
use crate::net::{Net, Node, NodeId};
use crate::op::{CoefActivation, Conv2d, DynamicKernel, Head, Op, Predictor};
use crate::shape::{MAX_EXPERTS, activation_ok, rate_ok};

/// Which output channels share a coefficient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coefficients {
    /// One for each kernel and output channel (the seed document, DyNet).
    #[default]
    Channel,
    /// One for each kernel (CondConv, DY-Conv).
    Kernel,
}

/// What a predictor looks at and feeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One predictor for each convolution, from the convolution's input (the seed document).
    #[default]
    Layer,
    /// One predictor for each block, from the input of the block's first dynamic convolution, feeding all of
    /// them (the paper). Convolutions outside blocks have their own.
    Block,
}

/// How a static net is made dynamic. The default is the seed document's layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicOptions {
    /// Fixed kernels per output channel, K.
    pub experts: usize,
    /// Which output channels share a coefficient.
    pub coefficients: Coefficients,
    /// What turns a predictor's outputs into coefficients.
    pub activation: CoefActivation,
    /// What a predictor looks at and feeds.
    pub scope: Scope,
    /// The predictor's hidden layer has `channels / squeeze` units; `None`: no hidden layer.
    pub squeeze: Option<usize>,
    /// Probability that a pooled feature is dropped in training.
    pub dropout: f32,
    /// Whether convolutions outside residual and shuffle blocks become dynamic too.
    pub outside_blocks: bool,
}

impl Default for DynamicOptions {
    fn default() -> Self {
        Self {
            experts: 3,
            coefficients: Coefficients::Channel,
            activation: CoefActivation::Softmax { temperature: 1.0 },
            scope: Scope::Layer,
            squeeze: None,
            dropout: 0.2,
            outside_blocks: true,
        }
    }
}

impl DynamicOptions {
    /// The paper's form: K = 6, sigmoid, one predictor a block, nothing outside blocks.
    pub fn paper() -> Self {
        Self {
            experts: 6,
            activation: CoefActivation::Sigmoid,
            scope: Scope::Block,
            dropout: 0.0,
            outside_blocks: false,
            ..Self::default()
        }
    }

    /// Refuses what no layer can take.
    fn check(&self) -> Result<(), String> {
        if !(1..=MAX_EXPERTS).contains(&self.experts) {
            return Err(format!("experts (K): expected 1 to {MAX_EXPERTS}, got {}", self.experts));
        }
        if self.squeeze == Some(0) {
            return Err("squeeze: expected 1 or more, got 0".into());
        }
        activation_ok(self.activation)?;
        rate_ok("dropout", self.dropout)
    }

    fn head(&self, conv: &Conv2d) -> Head {
        let channels = match self.coefficients {
            Coefficients::Channel => conv.c_out,
            Coefficients::Kernel => 1,
        };
        Head { experts: self.experts, channels }
    }

    fn predictor(&self, c_in: usize, heads: Vec<Head>) -> Op {
        let hidden = self.squeeze.map(|s| (c_in / s).max(1));
        Op::Predictor(Predictor { hidden, heads, activation: self.activation, dropout: self.dropout })
    }

    /// The convolution of a node, if it is to become dynamic. `keep_static` marks a net's first convolution
    /// and those inside squeeze-and-excitation.
    fn selects<'a>(&self, node: &'a Node) -> Option<&'a Conv2d> {
        match &node.op {
            Op::Conv2d(c) if !c.keep_static && (self.outside_blocks || node.block.is_some()) => Some(c),
            _ => None,
        }
    }
}

impl Net {
    /// This net with its convolutions made dynamic, all but those marked to stay static.
    ///
    /// # Errors
    /// A net that is dynamic already, or options that no layer can take.
    pub fn to_dynamic(&self, options: &DynamicOptions) -> Result<Self, NetError> {
        let refuse = |problem: String| {
            let (net, node) = (self.name().into(), "dynamic convolutions".into());
            Err(NetError { net, node, problem })
        };
        if self.is_dynamic() {
            return refuse("expected a static net, got a dynamic one".into());
        }
        if let Err(problem) = options.check() {
            return refuse(problem);
        }
        let mut heads: HashMap<&str, Vec<Head>> = HashMap::new();
        for node in self.nodes() {
            if let Some(conv) = options.selects(node) {
                heads.entry(self.predictor_owner(node, options.scope)).or_default().push(options.head(conv));
            }
        }
        if heads.is_empty() {
            return refuse("expected a convolution that may become dynamic, got none".into());
        }
        let mut builder = NetBuilder::new(self.name(), self.input());
        // Where each old node, and each owner's predictor, stands in the new net; heads used so far.
        let mut moved = vec![builder.input()];
        let mut predictors: HashMap<&str, (NodeId, usize)> = HashMap::new();
        for node in self.nodes().iter().skip(1) {
            let mut inputs: Vec<NodeId> = node.inputs.iter().map(|i| moved[i.0]).collect();
            let block = node.block.as_deref();
            let mut op = node.op.clone();
            if options.selects(node).is_some() {
                let owner = self.predictor_owner(node, options.scope);
                let (predictor, head) = predictors.entry(owner).or_insert_with(|| {
                    let op = options.predictor(builder.channels(inputs[0]), heads[owner].clone());
                    (builder.push_in(block, &format!("{owner}._coefficient_fn"), op, &inputs), 0)
                });
                inputs.push(*predictor);
                if let Op::Conv2d(c) = &mut op {
                    c.dynamic = Some(DynamicKernel { experts: options.experts, head: *head });
                }
                *head += 1;
            }
            moved.push(builder.push_in(block, &node.name, op, &inputs));
        }
        builder.finish()
    }

    /// Module path under which a convolution's predictor goes.
    fn predictor_owner<'a>(&'a self, node: &'a Node, scope: Scope) -> &'a str {
        match (scope, &node.block) {
            (Scope::Block, Some(block)) => block,
            _ => &node.name,
        }
    }

    /// The static twin: the same net with ordinary convolutions. A static net is its own twin.
    ///
    /// Nodes keep their names, so a tensor of the twin has the name that it has here; only the kernels lose
    /// their first dimension, K, and the predictors are gone.
    pub fn twin(&self) -> Self {
        let live = self.read_without_predictors();
        // Where each node goes; of a node that goes nowhere the entry is never read.
        let mut moved = Vec::with_capacity(self.nodes.len());
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (node, live) in self.nodes.iter().zip(live) {
            moved.push(NodeId(nodes.len()));
            if !live {
                continue;
            }
            let mut node = node.clone();
            node.inputs = static_inputs(&node).iter().map(|i| moved[i.0]).collect();
            if let Op::Conv2d(c) = &mut node.op {
                c.dynamic = None;
            }
            nodes.push(node);
        }
        // No check is needed: what is left reads what it read before, of the same shapes and names.
        Self { name: self.name.clone(), nodes }
    }

    /// Which nodes the logits still depend on once no convolution reads coefficients.
    fn read_without_predictors(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        live[self.output().0] = true;
        for index in (0..live.len()).rev().filter(|&i| i > 0) {
            if live[index] {
                static_inputs(&self.nodes[index]).iter().for_each(|i| live[i.0] = true);
            }
        }
        live
    }
}

/// The inputs of a node but for coefficients.
fn static_inputs(node: &Node) -> &[NodeId] {
    match &node.op {
        Op::Conv2d(c) if c.dynamic.is_some() => &node.inputs[..1],
        _ => &node.inputs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Shape;

    #[test]
    fn what_only_a_predictor_reads_goes_with_it() {
        let mut b = NetBuilder::new("n", Shape::new(4, 8, 8));
        let image = b.input();
        let seen = b.conv("seen", image, Conv2d::new(4, 6, 3));
        let op = DynamicOptions::default().predictor(6, vec![Head { experts: 3, channels: 8 }]);
        let p = b.push("p", op, &[seen]);
        let dynamic = Some(DynamicKernel { experts: 3, head: 0 });
        let x = b.push("a", Op::Conv2d(Conv2d { dynamic, ..Conv2d::new(4, 8, 3) }), &[image, p]);
        b.push("pool", Op::GlobalAvgPool, &[x]);
        let net = b.finish().unwrap();
        let twin = net.twin();
        let names: Vec<&str> = twin.nodes().iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["input", "a", "pool"]);
        assert_eq!(twin.nodes()[1].inputs, [twin.ids().next().unwrap()]);
    }

    #[test]
    fn a_block_without_a_convolution_that_may_become_dynamic_is_refused() {
        let mut b = NetBuilder::new("n", Shape::new(4, 8, 8));
        let x = b.conv("a", b.input(), Conv2d::new(4, 8, 3));
        b.push("pool", Op::GlobalAvgPool, &[x]);
        let net = b.finish().unwrap();
        assert!(net.to_dynamic(&DynamicOptions::default()).unwrap().is_dynamic());
        let text = net.to_dynamic(&DynamicOptions::paper()).unwrap_err().to_string();
        assert!(text.ends_with("expected a convolution that may become dynamic, got none"), "{text}");
    }
}
