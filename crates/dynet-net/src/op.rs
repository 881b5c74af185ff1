//! The operations that a [`Net`](crate::Net) is made of.

use serde::{Deserialize, Serialize};

/// Size of a feature map of one image: channels, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[usize; 3]", into = "[usize; 3]")]
pub struct Shape {
    /// Channels.
    pub c: usize,
    /// Height in pixels.
    pub h: usize,
    /// Width in pixels.
    pub w: usize,
}

impl Shape {
    /// A shape from its three sizes.
    pub const fn new(c: usize, h: usize, w: usize) -> Self {
        Self { c, h, w }
    }

    /// Number of values.
    pub const fn len(self) -> usize {
        self.c * self.h * self.w
    }

    /// Whether it holds no value; never so in a valid net.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Pixels of one channel.
    pub const fn pixels(self) -> usize {
        self.h * self.w
    }
}

impl From<[usize; 3]> for Shape {
    fn from([c, h, w]: [usize; 3]) -> Self {
        Self { c, h, w }
    }
}

impl From<Shape> for [usize; 3] {
    fn from(s: Shape) -> Self {
        [s.c, s.h, s.w]
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {} x {}", self.c, self.h, self.w)
    }
}

/// What lies outside the image for a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaddingMode {
    /// Zeros.
    #[default]
    Zeros,
    /// The image mirrored at its edge pixels, which are not repeated.
    Reflect,
    /// The edge pixels repeated.
    Replicate,
    /// The opposite side of the image.
    Circular,
}

/// A two-dimensional convolution, static or dynamic.
///
/// Kernel `[c_out, c_in / groups, kh, kw]`; of a dynamic one `[K, c_out, c_in / groups, kh, kw]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Rows and columns added on each side.
    pub padding: [usize; 2],
    /// What the added rows and columns hold.
    #[serde(default)]
    pub padding_mode: PaddingMode,
    /// Spacing between kernel elements.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether a (static) bias is added.
    pub bias: bool,
    /// Stays static when its net is made dynamic: stems, squeeze-and-excitation.
    #[serde(default)]
    pub keep_static: bool,
    /// The fixed kernels of a dynamic convolution; `None` for an ordinary one.
    #[serde(default)]
    pub dynamic: Option<DynamicKernel>,
}

impl Conv2d {
    /// A square kernel of side `k` with padding `k / 2`, stride 1, one group, no bias.
    pub fn new(c_in: usize, c_out: usize, k: usize) -> Self {
        Self {
            c_in,
            c_out,
            kernel: [k, k],
            stride: [1, 1],
            padding: [k / 2, k / 2],
            padding_mode: PaddingMode::Zeros,
            dilation: [1, 1],
            groups: 1,
            bias: false,
            keep_static: false,
            dynamic: None,
        }
    }

    /// A depthwise convolution: one group a channel.
    pub fn depthwise(c: usize, k: usize) -> Self {
        Self::new(c, c, k).groups(c)
    }

    /// Sets the same stride for both directions.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride, stride];
        self
    }

    /// Sets the number of groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Adds a bias.
    pub fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// Excludes this convolution when its net is made dynamic.
    pub fn keep_static(mut self) -> Self {
        self.keep_static = true;
        self
    }

    /// Weights that one output channel reads: `c_in / groups * kh * kw`.
    pub fn fan_in(&self) -> usize {
        self.c_in / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// Weights of one (fused) kernel over all output channels.
    pub fn kernel_len(&self) -> usize {
        self.c_out * self.fan_in()
    }
}

/// The fixed kernels of a dynamic convolution, `w_t^i` of Eq. 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicKernel {
    /// Number of fixed kernels per output channel: K, the paper's group size `g_t`.
    pub experts: usize,
    /// Which head of the predictor holds the coefficients.
    pub head: usize,
}

/// One head of a coefficient predictor: the coefficients of one dynamic convolution, `[experts, channels]`,
/// expert-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Number of fixed kernels K.
    pub experts: usize,
    /// Output channels of the convolution, or 1 where all channels share the coefficients of a kernel.
    pub channels: usize,
}

impl Head {
    /// Number of coefficients.
    pub fn len(self) -> usize {
        self.experts * self.channels
    }

    /// Whether there is no coefficient; never so in a valid net.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What turns the predictor's outputs into coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum CoefActivation {
    /// Softmax over the K kernels of each channel, of the outputs divided by `temperature`.
    Softmax {
        /// Divisor of the outputs; 1 is the seed document's layer.
        temperature: f32,
    },
    /// Each coefficient alone in `(0, 1)`, as the paper has it.
    Sigmoid,
}

/// Predicts coefficients from a feature map: global average pooling -> dropout -> fully connected
/// [-> ReLU -> fully connected] -> activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictor {
    /// Width of the hidden layer; `None` for a single fully connected layer.
    pub hidden: Option<usize>,
    /// The dynamic convolutions that it feeds, in the order of its outputs.
    pub heads: Vec<Head>,
    /// What turns outputs into coefficients.
    pub activation: CoefActivation,
    /// Probability that a pooled feature is dropped in training.
    pub dropout: f32,
}

impl Predictor {
    /// Number of coefficients of all heads.
    pub fn coefficients(&self) -> usize {
        self.heads.iter().map(|h| h.len()).sum()
    }

    /// Index of a head's first coefficient among the predictor's outputs.
    pub fn head_offset(&self, head: usize) -> usize {
        self.heads[..head].iter().map(|h| h.len()).sum()
    }
}

/// An element-wise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * relu6(x + 3) / 6`.
    Hardswish,
    /// `relu6(x + 3) / 6`.
    Hardsigmoid,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// One operation. Inputs are given by the node that holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The images.
    Input,
    /// A convolution of input 0; a dynamic one takes its coefficients from input 1, a predictor.
    Conv2d(Conv2d),
    /// Coefficients for the dynamic convolutions that read it.
    Predictor(Predictor),
    /// Batch normalisation with learnt scale and shift.
    BatchNorm {
        /// Added to the variance.
        eps: f32,
        /// Weight of the newest batch in the running statistics.
        momentum: f32,
    },
    /// An element-wise nonlinearity.
    Activation(Activation),
    /// Maximum over a square window; padding counts as minus infinity.
    MaxPool {
        /// Side of the window.
        kernel: usize,
        /// Stride.
        stride: usize,
        /// Rows and columns added on each side.
        padding: usize,
    },
    /// Mean over all pixels: `[c, h, w] -> [c, 1, 1]`.
    GlobalAvgPool,
    /// Sum of inputs 0 and 1.
    Add,
    /// Input 0 `[c, h, w]` times input 1 `[c, 1, 1]`, channel by channel.
    Scale,
    /// `len` channels from `start` on.
    Slice {
        /// First channel.
        start: usize,
        /// Number of channels.
        len: usize,
    },
    /// All inputs behind one another, by channel.
    Concat,
    /// ShuffleNet's channel shuffle: `[groups, c / groups]` transposed.
    Shuffle {
        /// Number of groups.
        groups: usize,
    },
    /// A fully connected layer with bias on `[c, 1, 1]`.
    Linear {
        /// Output features.
        c_out: usize,
    },
    /// Drops single values in training, does nothing else.
    Dropout {
        /// Probability of a drop.
        rate: f32,
    },
}

impl Op {
    /// A short name for tables and messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Conv2d(c) if c.dynamic.is_some() => "dynamic conv",
            Self::Conv2d(_) => "conv",
            Self::Predictor(_) => "predictor",
            Self::BatchNorm { .. } => "batch norm",
            Self::Activation(Activation::Relu) => "relu",
            Self::Activation(Activation::Relu6) => "relu6",
            Self::Activation(Activation::Hardswish) => "hardswish",
            Self::Activation(Activation::Hardsigmoid) => "hardsigmoid",
            Self::Activation(Activation::Sigmoid) => "sigmoid",
            Self::MaxPool { .. } => "max pool",
            Self::GlobalAvgPool => "global avg pool",
            Self::Add => "add",
            Self::Scale => "scale",
            Self::Slice { .. } => "slice",
            Self::Concat => "concat",
            Self::Shuffle { .. } => "shuffle",
            Self::Linear { .. } => "linear",
            Self::Dropout { .. } => "dropout",
        }
    }
}
