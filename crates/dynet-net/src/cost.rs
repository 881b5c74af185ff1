//! Counts parameters and multiply-adds, convolutions, predictors and fusion apart.

use serde::Serialize;

use crate::net::{Net, Node};
use crate::op::{Op, Shape};

/// Multiply-adds for one image; one of them is two floating-point operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Madds {
    /// Convolutions with their kernels fused: for each image one convolution a layer.
    pub convolutions: u64,
    /// Fully connected layers that give the logits.
    pub classifier: u64,
    /// Fully connected layers of the coefficient predictors.
    pub predictors: u64,
    /// Fusing kernels: K times the weights of a kernel.
    pub fusion: u64,
    /// Convolutions in the mixed form: K of them for each dynamic layer, the others once.
    pub mixed_convolutions: u64,
}

impl Madds {
    /// All of the fused form: convolutions, classifier, predictors, fusion.
    pub fn fused_total(&self) -> u64 {
        self.convolutions.saturating_add(self.classifier + self.predictors + self.fusion)
    }

    /// All of the mixed form: K convolutions, classifier, predictors. Nothing is fused.
    pub fn mixed_total(&self) -> u64 {
        self.mixed_convolutions.saturating_add(self.classifier + self.predictors)
    }

    fn add(&mut self, other: &Self) {
        // Of a net at the limits of every layer, five layers would be too much for 64 bits.
        let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
        add(&mut self.convolutions, other.convolutions);
        add(&mut self.classifier, other.classifier);
        add(&mut self.predictors, other.predictors);
        add(&mut self.fusion, other.fusion);
        add(&mut self.mixed_convolutions, other.mixed_convolutions);
    }
}

/// Cost of one layer: a node with parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// Module path.
    pub name: String,
    /// Kind of operation.
    pub kind: &'static str,
    /// Shape of the output `[c, h, w]`.
    pub output: Shape,
    /// Fixed kernels per output channel; 1 for a static layer.
    pub experts: usize,
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds.
    pub madds: Madds,
}

/// Cost of a net for one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetCost {
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds.
    pub madds: Madds,
    /// Layer by layer, in the order in which they run.
    pub layers: Vec<LayerCost>,
}

/// What `dynet summary --json` prints: plain counts for one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the architecture.
    pub name: String,
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds.
    pub madds: Madds,
    /// The same of the static twin; `None` for a static net.
    pub twin: Option<NetCost>,
    /// Layer by layer, in the order in which they run.
    pub layers: Vec<LayerCost>,
}

/// Counts a net and, if it is dynamic, its static twin beside it.
pub fn summary(net: &Net) -> Summary {
    let NetCost { params, madds, layers } = cost(net);
    let twin = net.is_dynamic().then(|| cost(&net.twin()));
    Summary { name: net.name().to_owned(), params, madds, twin, layers }
}

/// Counts a net. Normalisation, activations, pooling and additions are not counted, as the field does not.
pub fn cost(net: &Net) -> NetCost {
    let mut layers: Vec<LayerCost> = Vec::new();
    for (id, node) in net.ids().zip(net.nodes()) {
        let params = net.params_of(id);
        if params.is_empty() {
            continue;
        }
        layers.push(LayerCost {
            name: node.name.clone(),
            kind: node.op.kind(),
            output: node.shape,
            experts: match &node.op {
                Op::Conv2d(c) => c.dynamic.map_or(1, |d| d.experts),
                _ => 1,
            },
            params: params.iter().filter(|p| p.is_trainable()).map(|p| p.len() as u64).sum(),
            madds: madds(net, node),
        });
    }
    let mut total = Madds::default();
    for layer in &layers {
        total.add(&layer.madds);
    }
    NetCost { params: layers.iter().map(|l| l.params).sum(), madds: total, layers }
}

fn madds(net: &Net, node: &Node) -> Madds {
    let x = node.inputs.first().map_or(0, |i| net.node(*i).shape.c) as u64;
    let mut madds = Madds::default();
    match &node.op {
        Op::Conv2d(c) => {
            let weights = c.kernel_len() as u64;
            let convolution = weights * node.shape.pixels() as u64;
            let experts = c.dynamic.map_or(1, |d| d.experts as u64);
            madds.convolutions = convolution;
            madds.mixed_convolutions = convolution * experts;
            madds.fusion = if c.dynamic.is_some() { weights * experts } else { 0 };
        }
        Op::Predictor(p) => {
            let coefficients = p.coefficients() as u64;
            madds.predictors = match p.hidden {
                None => x * coefficients,
                Some(hidden) => hidden as u64 * (x + coefficients),
            };
        }
        Op::Linear { c_out } => madds.classifier = x * *c_out as u64,
        _ => {}
    }
    madds
}
