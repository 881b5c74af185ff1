//! Parameter names, shapes and roles. The names of the whole project are made here and nowhere else.

use serde::Serialize;

use crate::net::{Net, NodeId};
use crate::op::Op;

/// What a tensor of a net is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamKind {
    /// Kernel of a convolution.
    ConvWeight,
    /// Weight of a fully connected layer.
    LinearWeight,
    /// Weight of a coefficient predictor's fully connected layer.
    PredictorWeight,
    /// Any bias.
    Bias,
    /// Scale of a batch normalisation.
    NormWeight,
    /// Running mean of a batch normalisation.
    RunningMean,
    /// Running variance of a batch normalisation.
    RunningVar,
}

/// One tensor of a net.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParamSpec {
    /// Name as in PyTorch's state dict.
    pub name: String,
    /// Sizes, row-major.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: ParamKind,
    /// The node that it belongs to.
    pub node: NodeId,
    /// Inputs that one output reads, of one expert: what initialisation scales by. 0 where it does not apply.
    pub fan_in: usize,
}

impl ParamSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value; never so for a valid net.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether training changes it by gradient.
    pub fn is_trainable(&self) -> bool {
        !matches!(self.kind, ParamKind::RunningMean | ParamKind::RunningVar)
    }

    /// Whether weight decay applies: to weights of convolutions and fully connected layers, not to norms and
    /// biases.
    pub fn decays(&self) -> bool {
        matches!(self.kind, ParamKind::ConvWeight | ParamKind::LinearWeight | ParamKind::PredictorWeight)
    }
}

/// The tensors of one node, in the order of PyTorch's state dict.
pub(crate) fn node_params(net: &Net, id: NodeId) -> Vec<ParamSpec> {
    let node = net.node(id);
    let x = node.inputs.first().map_or(0, |i| net.node(*i).shape.c);
    let mut list = Vec::new();
    let mut add = |suffix: &str, shape: &[usize], kind, fan_in| {
        let name = format!("{}.{suffix}", node.name);
        list.push(ParamSpec { name, shape: shape.to_vec(), kind, node: id, fan_in });
    };
    match &node.op {
        Op::Conv2d(c) => {
            let kernel = [c.c_out, c.c_in / c.groups, c.kernel[0], c.kernel[1]];
            match c.dynamic {
                None => add("weight", &kernel, ParamKind::ConvWeight, c.fan_in()),
                Some(d) => {
                    let [o, i, h, w] = kernel;
                    add("weight", &[d.experts, o, i, h, w], ParamKind::ConvWeight, c.fan_in());
                }
            }
            if c.bias {
                add("bias", &[c.c_out], ParamKind::Bias, c.fan_in());
            }
        }
        Op::Predictor(p) => {
            let coefficients = p.coefficients();
            let mut layer = |name: &str, c_in: usize, c_out: usize| {
                add(&format!("{name}.weight"), &[c_out, c_in], ParamKind::PredictorWeight, c_in);
                add(&format!("{name}.bias"), &[c_out], ParamKind::Bias, c_in);
            };
            match p.hidden {
                None => layer("fc", x, coefficients),
                Some(hidden) => {
                    layer("fc1", x, hidden);
                    layer("fc2", hidden, coefficients);
                }
            }
        }
        Op::BatchNorm { .. } => {
            add("weight", &[x], ParamKind::NormWeight, 0);
            add("bias", &[x], ParamKind::Bias, 0);
            add("running_mean", &[x], ParamKind::RunningMean, 0);
            add("running_var", &[x], ParamKind::RunningVar, 0);
        }
        Op::Linear { c_out } => {
            add("weight", &[*c_out, x], ParamKind::LinearWeight, x);
            add("bias", &[*c_out], ParamKind::Bias, x);
        }
        _ => {}
    }
    list
}
