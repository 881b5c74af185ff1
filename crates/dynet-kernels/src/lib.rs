//! CPU kernels that fuse and convolve.
//!
//! Maps are f32, channels last: channel `c` of pixel `p` is `data[p * ld + c]`. Weights are packed ahead into
//! [`Panels`]; a kernel takes the arguments of a whole layer, fuses, multiplies and stores the
//! [`Tile`] of the output that it is given. No kernel allocates.

mod arch;
mod generic;
mod vector;

pub mod activation;
pub mod backward;
pub mod bf16;
pub mod buffer;
pub mod conv;
pub mod copy;
pub mod geometry;
pub mod grouped;
pub mod isa;
pub mod panels;
pub mod pixelwise;
pub mod pool;
pub mod reference;
pub mod shared;
pub mod stem;
pub mod sums;
pub mod table;
pub mod view;
pub mod winograd;

pub use activation::Activation;
pub use bf16::conv_bf16;
pub use buffer::Buffer;
pub use conv::{Conv, OfImage, conv, conv_ahead, conv_images};
pub use geometry::{Border, Geometry, Taps};
pub use grouped::{GroupedConv, grouped};
pub use isa::{Isa, UnknownIsa};
pub use panels::{KernelShape, Panels, Storage};
pub use pool::Pool;
pub use shared::{Grid, PerThread, Piece, SharedOut, Tile};
pub use stem::{Stem, stem};
pub use sums::Sums;
pub use table::{Kernel, kernels};
pub use view::{Coefs, Epilogue, Pixels, Residual};
