//! Each algorithm once, over any [`Vector`](crate::vector::Vector).

pub(crate) mod bf16;
pub(crate) mod exp;
pub(crate) mod fetch;
pub(crate) mod fuse;
pub(crate) mod gemm;
pub(crate) mod grouped;
pub(crate) mod interleave;
pub(crate) mod matvec;
pub(crate) mod operands;
pub(crate) mod pixelwise;
pub(crate) mod positions;
pub(crate) mod slide;
pub(crate) mod stem;
pub(crate) mod strip;
pub(crate) mod winograd;

/// Bytes of a cache line.
pub(crate) const LINE_BYTES: usize = 64;
