//! The naive version of every kernel, summed in f64: what the fast ones are compared with.

use crate::activation::Activation;
use crate::geometry::{Border, Geometry};
use crate::view::Pixels;

/// An element-wise nonlinearity.
pub fn activate(act: Activation, x: f64) -> f64 {
    let gate = (x + 3.0).clamp(0.0, 6.0) / 6.0;
    match act {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Hardswish => x * gate,
        Activation::Hardsigmoid => gate,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// Eq. 1 on unpacked weights: `dynamic[t] = sum_i coef[i][t] * fixed[i][t]`.
///
/// # Shapes
/// `fixed [experts][c_out][len]`, `coef [experts][c_out]`, result `[c_out][len]`.
pub fn fuse(fixed: &[f32], coef: &[f32], c_out: usize, len: usize) -> Vec<f64> {
    let each = |at: usize| {
        let term = |(e, c): (usize, &f32)| f64::from(*c) * f64::from(fixed[e * c_out * len + at]);
        coef.iter().skip(at / len).step_by(c_out).enumerate().map(term).sum()
    };
    (0..c_out * len).map(each).collect()
}

/// A convolution of one image with any groups, stride, padding, dilation and border.
///
/// # Shapes
/// `x` channels last with `groups * c_in` channels, `weights [c_out][c_in][kh * kw]`, result `[output pixels][c_out]`.
pub fn conv(
    x: Pixels<'_>,
    g: &Geometry,
    border: Border,
    weights: &[f64],
    c_out: usize,
    groups: usize,
) -> Vec<f64> {
    let [height, width] = g.output();
    let taps = g.taps();
    let c_in = weights.len() / c_out / taps;
    let mut out = Vec::with_capacity(height * width * c_out);
    for (oy, ox) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        for t in 0..c_out {
            let first = t / (c_out / groups) * c_in;
            let mut sum = 0.0;
            for tap in 0..taps {
                let row = border.source(g.at(0, oy, tap / g.kernel[1]), g.input[0]);
                let column = border.source(g.at(1, ox, tap % g.kernel[1]), g.input[1]);
                let Some((r, c)) = row.zip(column) else { continue };
                let pixel = &x.data[(r * g.input[1] + c) * x.ld + first..][..c_in];
                let weight = |i: usize| weights[(t * c_in + i) * taps + tap];
                sum += pixel.iter().enumerate().map(|(i, x)| f64::from(*x) * weight(i)).sum::<f64>();
            }
            out.push(sum);
        }
    }
    out
}
