//! The table of kernels, which tests, benches and `dynet kernels` iterate.

use std::fmt;

use crate::isa::Isa;

/// A kernel on an instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its algorithm, as `f32_fuse`.
    pub family: &'static str,
    /// What it computes.
    pub what: &'static str,
    /// What it is compiled for.
    pub isa: Isa,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.family, self.isa)
    }
}

/// Algorithms and what they compute.
const FAMILIES: &[(&str, &str)] = &[
    ("f32_product", "dense convolution: pixels times packed panels, as an implicit product"),
    ("f32_fuse", "dense convolution, K fixed kernels in f32 fused panel by panel"),
    ("bf16_fuse", "the same, fixed kernels in bfloat16"),
    ("int8_fuse", "the same, fixed kernels in 8 bits with a scale per channel and kernel"),
    ("bf16_product", "dense convolution of factors rounded to bfloat16, on AMX where the CPU has it"),
    ("bf16_product_fused", "the same, kernels fused in f32 before they are rounded"),
    ("matvec", "one pixel times all panels: predictors and classifiers of one image"),
    ("depthwise", "one channel a group: a window that slides along rows"),
    ("narrow_groups", "few channels a group: a sliding window whose inputs are permuted into lanes"),
    ("winograd_2", "dense 3x3 of stride 1: F(2x2, 3x3), static or fused kernels transformed"),
    ("winograd_3", "dense 7x7 of stride 2 over images: F(3x3, 4x4), static kernels transformed"),
    ("winograd_4", "dense 3x3 of stride 1: F(4x4, 3x3), static or fused kernels transformed"),
    ("stem", "dense 3x3 over images whose planes lie one behind the other, static"),
    ("pixelwise", "activation, addition and scaling of maps, with channel sums"),
    ("channel_sums", "sums over the pixels of each channel: global average pooling"),
    ("max_pool", "greatest value of a window"),
    ("softmax", "softmax over the fixed kernels of each channel, with a temperature"),
];

/// All kernels that this CPU can run, those of the fastest instruction set first.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    let of = |isa| FAMILIES.iter().map(move |&(family, what)| Kernel { family, what, isa });
    Isa::available().flat_map(of)
}
