//! One node of a net with what it has of parameters and state.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Tensor, TensorData};
use dynet_net::{Conv2d, Net, NodeId, Op, ParamSpec, Weights};

use crate::coefficients::{CoefPredictor, FullyConnected};
use crate::conv::Geometry;
use crate::experts::ExpertConv2d;
use crate::norm::BatchNorm2d;
use crate::static_conv::StaticConv2d;

/// A node's parameters. Fields stand in the order of [`Net::params_of`], which [`tensors`](Self::tensors) relies
/// on.
#[derive(Module, Debug)]
pub(crate) enum Layer {
    /// An ordinary convolution.
    Conv(StaticConv2d),
    /// A dynamic convolution without its predictor, which is a node of its own.
    Dynamic(ExpertConv2d),
    /// A predictor of coefficients.
    Predictor(CoefPredictor),
    /// Batch normalisation.
    Norm(BatchNorm2d),
    /// A fully connected layer.
    Linear(FullyConnected),
    /// Dropout; no parameters, but Burn's switch of training.
    Dropout(Dropout),
}

impl Layer {
    /// The layer of a node with values from `weights`; `None` for an operation without parameters.
    ///
    /// The weights have been checked against the net.
    pub(crate) fn new(net: &Net, id: NodeId, weights: &Weights, device: &Device) -> Option<Self> {
        let mut values = Values { specs: net.params_of(id).into_iter(), weights, device };
        Some(match &net.node(id).op {
            Op::Conv2d(conv) => {
                let geometry = geometry(conv);
                if conv.dynamic.is_some() {
                    let kernels = values.next();
                    let bias = conv.bias.then(|| values.next());
                    Self::Dynamic(ExpertConv2d::from_tensors(kernels, bias, geometry))
                } else {
                    let kernel = values.next();
                    let bias = conv.bias.then(|| values.next());
                    Self::Conv(StaticConv2d::from_tensors(kernel, bias, geometry))
                }
            }
            Op::Predictor(predictor) => {
                let reduce = predictor.hidden.is_some().then(|| values.fully_connected());
                let fc = values.fully_connected();
                Self::Predictor(CoefPredictor::from_layers(predictor, reduce, fc, device))
            }
            Op::BatchNorm { eps, momentum } => {
                let tensors = std::array::from_fn(|_| values.next());
                Self::Norm(BatchNorm2d::from_tensors(tensors, *eps, *momentum))
            }
            Op::Linear { .. } => Self::Linear(values.fully_connected()),
            Op::Dropout { rate } => Self::Dropout(DropoutConfig::new(f64::from(*rate)).init()),
            _ => return None,
        })
    }

    /// Its tensors in the order of [`Net::params_of`], flat. A predictor's temperature comes behind them.
    pub(crate) fn tensors(&self) -> Vec<(ParamId, Tensor<1>)> {
        struct Collect(Vec<(ParamId, Tensor<1>)>);
        impl ModuleVisitor for Collect {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.push((param.id, param.val().detach().flatten(0, D - 1)));
            }
        }
        let mut collect = Collect(Vec::new());
        self.visit(&mut collect);
        collect.0
    }
}

impl Layer {
    /// Its trainable tensors in the order of [`Net::params_of`]; `None` where one is not on a CPU with autodiff.
    pub(crate) fn tracked(&self) -> Option<Vec<FloatTensor<Autodiff<Flex>>>> {
        struct Collect(Option<Vec<FloatTensor<Autodiff<Flex>>>>);
        impl ModuleVisitor for Collect {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(list) = &mut self.0 {
                    match crate::ops::tracked(param.val()) {
                        Some(tensor) => list.push(tensor),
                        None => self.0 = None,
                    }
                }
            }
        }
        let mut collect = Collect(Some(Vec::new()));
        self.visit(&mut collect);
        let mut list = collect.0?;
        match self {
            // Behind scale and shift stand the running statistics.
            Self::Norm(_) => list.truncate(2),
            // Behind the layers stands the temperature.
            Self::Predictor(predictor) => list.truncate(if predictor.reduce.is_some() { 4 } else { 2 }),
            _ => {}
        }
        Some(list)
    }
}

fn geometry(conv: &Conv2d) -> Geometry {
    Geometry {
        stride: conv.stride,
        padding: conv.padding,
        padding_mode: conv.padding_mode,
        dilation: conv.dilation,
        groups: conv.groups,
    }
}

/// Hands out the tensors of one node in order.
struct Values<'a> {
    specs: std::vec::IntoIter<ParamSpec>,
    weights: &'a Weights,
    device: &'a Device,
}

impl Values<'_> {
    fn next<const D: usize>(&mut self) -> Tensor<D> {
        let spec = self.specs.next().expect("an operation lists all of its tensors");
        let tensor = self.weights.get(&spec.name).expect("weights were checked against their net");
        Tensor::from_data(TensorData::new(tensor.data.clone(), tensor.shape.clone()), self.device)
    }

    fn fully_connected(&mut self) -> FullyConnected {
        let weight = self.next();
        FullyConnected::from_tensors(weight, self.next())
    }
}
