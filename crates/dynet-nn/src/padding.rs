//! The borders of an image: PyTorch's four padding modes.

use burn::tensor::Tensor;
use burn::tensor::ops::PadMode;

use dynet_net::PaddingMode;

/// Pads height and width on both sides by `[rows, columns]`.
///
/// # Shapes
/// `[n, c, h, w]` to `[n, c, h + 2 * rows, w + 2 * columns]`.
pub(crate) fn pad(images: Tensor<4>, [rows, columns]: [usize; 2], mode: PaddingMode) -> Tensor<4> {
    if [rows, columns] == [0, 0] {
        return images;
    }
    let both = [(rows, rows), (columns, columns)];
    match mode {
        PaddingMode::Zeros => images.pad(both, PadMode::Constant(0.0)),
        PaddingMode::Reflect => images.pad(both, PadMode::Reflect),
        PaddingMode::Replicate => images.pad(both, PadMode::Edge),
        PaddingMode::Circular => wrap(wrap(images, 2, rows), 3, columns),
    }
}

/// Continues an axis by `count` values on each side with those of the opposite side.
fn wrap(images: Tensor<4>, axis: usize, count: usize) -> Tensor<4> {
    if count == 0 {
        return images;
    }
    let length = images.dims()[axis];
    let head = images.clone().narrow(axis, 0, count);
    let tail = images.clone().narrow(axis, length - count, count);
    Tensor::cat(vec![tail, images, head], axis)
}
