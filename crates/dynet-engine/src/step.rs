//! What a plan consists of: steps, and views of the memory that they share.

use std::sync::Arc;

use dynet_kernels::winograd::Side;
use dynet_kernels::{Activation, Border, Coefs, Geometry, Grid, Panels, Taps};
use dynet_net::{CoefActivation, NodeId};

use crate::plan::Precision;
use crate::pooled::Pooling;

/// A map of every image of a batch within one buffer `[images][pixels][ld]`, or a run of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Index of the buffer.
    pub(crate) buffer: usize,
    pub(crate) channel0: usize,
    pub(crate) channels: usize,
    /// Values from one pixel to the next.
    pub(crate) ld: usize,
    pub(crate) pixels: usize,
}

impl View {
    /// Channels `start..start + len` of it.
    pub(crate) fn slice(self, start: usize, len: usize) -> Self {
        Self { channel0: self.channel0 + start, channels: len, ..self }
    }
}

/// Makes the coefficients of one dynamic convolution: the last layer of its predictor, panel by panel.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The mean over the pixels, or the hidden layer.
    pub(crate) x: View,
    /// For each panel of the convolution the rows `[experts][nr]`; one piece `[experts]` where all output channels
    /// share the coefficients.
    pub(crate) weights: Vec<Panels>,
    /// `[panels][experts][nr]`.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: CoefActivation,
    /// Channels that softmax treats apart: `nr` or 1.
    pub(crate) channels: usize,
}

impl Gate {
    /// Coefficients of a panel.
    pub(crate) fn len(&self) -> usize {
        self.weights.first().map_or(0, Panels::n)
    }

    /// Bytes of its weights.
    pub(crate) fn len_bytes(&self) -> usize {
        self.weights.iter().map(Panels::len_bytes).sum()
    }

    /// Multiply-adds.
    pub(crate) fn madds(&self) -> u64 {
        self.weights.iter().map(|w| (w.k() * w.n()) as u64).sum()
    }
}

/// Where the coefficients of a dynamic convolution come from.
#[derive(Clone, Debug)]
pub(crate) enum Head {
    /// From a predictor that is read as a whole: `[experts][channels]` within its map.
    Map { coefs: View, channels: usize },
    /// From a step before, panel by panel.
    Blocked(View),
    /// Made by each thread for the panels that it fuses, or by the step before where that runs: into the view.
    Inline(Arc<Gate>, View),
}

impl Head {
    /// What is read: the coefficients, or what a thread makes them from. `apart`: whether all have a step of their own.
    pub(crate) fn source(&self, apart: bool) -> View {
        match self {
            Self::Inline(gate, _) if !apart => gate.x,
            Self::Map { coefs, .. } | Self::Blocked(coefs) | Self::Inline(_, coefs) => *coefs,
        }
    }

    /// Coefficients of one image that a step before has made, for panels of `nr` channels.
    pub(crate) fn coefs<'a>(&self, data: &'a [f32], nr: usize) -> Coefs<'a> {
        match self {
            Self::Map { channels, .. } => Coefs::new(data, *channels),
            Self::Blocked(_) | Self::Inline(..) => Coefs::blocked(data, nr, 0),
        }
    }
}

/// How a convolution reads its input.
#[derive(Clone, Debug)]
pub(crate) enum Reading {
    /// Output pixel `p` reads input pixel `p`.
    Pointwise,
    /// The images' planes themselves; there is no map then.
    Planes(Geometry),
    /// Through a table of pixels.
    Table(Taps),
    /// A sliding window over narrow groups.
    Window(Geometry),
    /// Tile by tile, by Winograd's filtering.
    Winograd(Geometry, Side),
}

impl Reading {
    /// The table through which a product reads.
    pub(crate) fn taps(&self) -> Option<&Taps> {
        match self {
            Self::Table(taps) => Some(taps),
            _ => None,
        }
    }

    /// Pieces in which a product reads the inputs of an output pixel.
    pub(crate) fn segments(&self) -> usize {
        self.taps().map_or(1, Taps::segments)
    }
}

/// A convolution with what happens before its store.
#[derive(Clone, Debug)]
pub(crate) struct ConvStep {
    pub(crate) x: View,
    pub(crate) reading: Reading,
    pub(crate) weights: Arc<Panels>,
    /// What its product multiplies, if it is one.
    pub(crate) precision: Precision,
    pub(crate) groups: usize,
    pub(crate) head: Option<Head>,
    pub(crate) input_scale: Option<View>,
    pub(crate) bias: Vec<f32>,
    pub(crate) residual: Option<View>,
    /// Whether the residual lies where the output will, and nobody reads it later.
    pub(crate) in_place: bool,
    pub(crate) act: Activation,
    /// Pixels of a tile, the same for every batch and number of threads: sums of a tile depend on it.
    pub(crate) pixel_block: usize,
    /// Output channels of a tile: whole panels.
    pub(crate) channel_block: usize,
    /// Whether all images are run over a panel before the next panel is looked at.
    pub(crate) panel_major: bool,
    /// The max pooling of its output, part by part; the step's output is what that makes.
    pub(crate) pool: Option<Pooling>,
    /// Pixels of its output where that is not kept: the step's output is the sums over blocks of `pixel_block` of them.
    pub(crate) summed: Option<usize>,
    /// The 1x1 convolution that makes `x`, a part of which each tile computes for itself; `x` is not in memory then.
    pub(crate) expand: Option<Box<ConvStep>>,
}

/// Pixels up to which fusing a panel for each image of a batch counts beside its product.
pub(crate) const FEW_PIXELS: usize = 100;

impl ConvStep {
    /// Whether the images of a batch share a tile, so that fixed kernels are read once for all of them.
    pub(crate) fn fuses_for_images_at_once(&self, grid: &Grid) -> bool {
        self.panel_major
            && self.head.is_some()
            && self.precision == Precision::F32
            && matches!(self.reading, Reading::Pointwise | Reading::Table(_))
            && self.summed.is_none()
            && grid.pixel_blocks() == 1
            && grid.pixels <= FEW_PIXELS
    }

    /// The maps that it reads.
    fn reads(&self) -> Vec<View> {
        let [coefs, mean] = match &self.head {
            Some(Head::Map { coefs, .. } | Head::Blocked(coefs)) => [Some(*coefs), None],
            Some(Head::Inline(gate, coefs)) => [Some(*coefs), Some(gate.x)],
            None => [None; 2],
        };
        let first = self.expand.as_ref().map_or_else(|| vec![self.x], |expand| expand.reads());
        let rest = [coefs, mean, self.input_scale, self.residual];
        first.into_iter().chain(rest.into_iter().flatten()).collect()
    }
}

/// A fully connected layer: images are the pixels.
#[derive(Debug)]
pub(crate) struct DenseStep {
    pub(crate) x: View,
    pub(crate) weights: Panels,
    pub(crate) bias: Vec<f32>,
    pub(crate) residual: Option<View>,
    pub(crate) act: Activation,
}

/// The operation of a step.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The images, channels last, with a border of zeros.
    Image(Geometry),
    Conv(Box<ConvStep>),
    Dense(Box<DenseStep>),
    /// The coefficients of a dynamic convolution. `inline`: for a single image they are left to the convolution.
    Gate {
        gate: Arc<Gate>,
        inline: bool,
    },
    /// Copies a map into a bordered one.
    Border {
        x: View,
        geometry: Geometry,
        border: Border,
    },
    /// Softmax over the experts of each head `(first, channels, experts)`, in place.
    Softmax {
        heads: Vec<[usize; 3]>,
        temperature: f32,
    },
    /// Mean over the pixels, of sums that were made block by block.
    Combine {
        sums: View,
        factor: f32,
    },
    /// Mean over the pixels.
    Pool {
        x: View,
    },
    MaxPool {
        x: View,
        geometry: Geometry,
    },
    Activate {
        x: View,
        act: Activation,
    },
    Add {
        x: View,
        y: View,
        act: Activation,
    },
    Scale {
        x: View,
        factors: View,
        act: Activation,
    },
    Copy {
        x: View,
    },
    Shuffle {
        parts: Vec<View>,
        groups: usize,
    },
}

/// One step of a plan: one fork and join, or none.
#[derive(Debug)]
pub(crate) struct Step {
    /// The node whose output it makes.
    pub(crate) node: NodeId,
    /// Name of the layer that it belongs to.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) output: View,
    /// What one image takes on one core, roughly.
    pub(crate) cost_ns: usize,
    /// If somebody reads the mean of what it makes.
    pub(crate) sums: Option<RunSums>,
}

/// Sums over the pixels of what a step makes, run by run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunSums {
    /// `[runs][channels]`.
    pub(crate) view: View,
    /// Pixels of a run. They follow from the layer alone, not from how it is cut, so that the sums are the same bits for any
    /// number of threads; a tile has whole runs.
    pub(crate) every: usize,
}

impl Step {
    /// The maps that it reads.
    pub(crate) fn reads(&self) -> Vec<View> {
        match &self.kind {
            Kind::Image(_) => vec![],
            Kind::Conv(c) => c.reads(),
            Kind::Dense(d) => std::iter::once(d.x).chain(d.residual).collect(),
            Kind::Gate { gate, .. } => vec![gate.x],
            Kind::Border { x, .. }
            | Kind::Pool { x }
            | Kind::MaxPool { x, .. }
            | Kind::Activate { x, .. }
            | Kind::Copy { x } => vec![*x],
            Kind::Softmax { .. } => vec![self.output],
            Kind::Combine { sums, .. } => vec![*sums],
            Kind::Add { x, y, .. } => vec![*x, *y],
            Kind::Scale { x, factors, .. } => vec![*x, *factors],
            Kind::Shuffle { parts, .. } => parts.clone(),
        }
    }

    /// Name of the algorithm, for tables.
    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.kind {
            Kind::Image(_) => "to channels last",
            Kind::Conv(c) if c.expand.as_ref().is_some_and(|e| e.precision == Precision::Bf16) => {
                "1x1 bf16 + window"
            }
            Kind::Conv(c) if c.expand.is_some() => "1x1 + window",
            Kind::Conv(c) if c.summed.is_some() => match c.precision {
                Precision::F32 => "1x1 for sums",
                Precision::Bf16 => "1x1 bf16 for sums",
            },
            Kind::Conv(c) if c.pool.is_some() => match &c.reading {
                Reading::Planes(_) => "stem + pool",
                Reading::Winograd(..) => "winograd + pool",
                _ if c.precision == Precision::Bf16 => "bf16 + pool",
                _ => "product + pool",
            },
            Kind::Conv(c) if c.precision == Precision::Bf16 => match (&c.reading, c.head.is_some()) {
                (Reading::Pointwise, false) => "1x1 bf16",
                (Reading::Pointwise, true) => "1x1 bf16 fused",
                (_, false) => "implicit bf16",
                (_, true) => "implicit bf16 fused",
            },
            Kind::Conv(c) => match (&c.reading, c.head.is_some()) {
                (Reading::Planes(_), _) => "stem",
                (Reading::Pointwise, false) => "1x1 product",
                (Reading::Pointwise, true) => "1x1 fused",
                (Reading::Table(_), false) => "implicit product",
                (Reading::Table(_), true) => "implicit fused",
                (Reading::Window(_), false) => "sliding window",
                (Reading::Window(_), true) => "window fused",
                (Reading::Winograd(_, Side::Two), false) => "winograd 2",
                (Reading::Winograd(_, Side::Two), true) => "winograd 2 fused",
                (Reading::Winograd(_, Side::Three), _) => "winograd 3",
                (Reading::Winograd(_, Side::Four), false) => "winograd 4",
                (Reading::Winograd(_, Side::Four), true) => "winograd 4 fused",
            },
            Kind::Dense(_) | Kind::Gate { .. } => "matrix-vector",
            Kind::Border { .. } => "border",
            Kind::Softmax { .. } => "softmax",
            Kind::Combine { .. } => "pool (sums)",
            Kind::Pool { .. } => "pool",
            Kind::MaxPool { .. } => "max pool",
            Kind::Activate { .. } => "activation",
            Kind::Add { .. } => "add",
            Kind::Scale { .. } => "scale",
            Kind::Copy { .. } => "copy",
            Kind::Shuffle { .. } => "shuffle",
        }
    }
}
