//! What a plan consists of: steps, and views of the memory that they share.

use dynet_kernels::{Activation, Border, Geometry, Panels, Taps};
use dynet_net::NodeId;

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

/// Coefficients of a dynamic convolution within the map that its predictor writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) coefs: View,
    /// Output channels, or 1 where all of them share the coefficients.
    pub(crate) channels: usize,
}

/// How a convolution reads its input.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Output pixel `p` reads input pixel `p`.
    Pointwise,
    /// Through a table of pixels.
    Table(Taps),
    /// A sliding window over narrow groups.
    Window(Geometry),
}

/// A convolution with what happens before its store.
#[derive(Debug)]
pub(crate) struct ConvStep {
    pub(crate) x: View,
    pub(crate) reading: Reading,
    pub(crate) weights: Panels,
    pub(crate) groups: usize,
    pub(crate) head: Option<Head>,
    pub(crate) input_scale: Option<View>,
    pub(crate) bias: Vec<f32>,
    pub(crate) residual: Option<View>,
    pub(crate) act: Activation,
    /// Pixels of a tile, the same for every batch and number of threads: sums of a tile depend on it.
    pub(crate) pixel_block: usize,
    /// Whether all images are run over a panel before the next panel is looked at.
    pub(crate) panel_major: bool,
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
    /// Receives the sums over the pixels of each block of pixels, `[blocks][channels]`.
    pub(crate) sums: Option<View>,
}

impl Step {
    /// The maps that it reads.
    pub(crate) fn reads(&self) -> Vec<View> {
        match &self.kind {
            Kind::Image(_) => vec![],
            Kind::Conv(c) => {
                let rest = [c.head.map(|h| h.coefs), c.input_scale, c.residual];
                std::iter::once(c.x).chain(rest.into_iter().flatten()).collect()
            }
            Kind::Dense(d) => std::iter::once(d.x).chain(d.residual).collect(),
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
            Kind::Conv(c) => match (&c.reading, c.head.is_some()) {
                (Reading::Pointwise, false) => "1x1 product",
                (Reading::Pointwise, true) => "1x1 fused",
                (Reading::Table(_), false) => "implicit product",
                (Reading::Table(_), true) => "implicit fused",
                (Reading::Window(_), false) => "sliding window",
                (Reading::Window(_), true) => "window fused",
            },
            Kind::Dense(_) => "matrix-vector",
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
