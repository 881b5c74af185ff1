//! How alike the kernels of a layer are, and its experts among themselves: cosines.

use dynet_net::Conv2d;
use serde::Serialize;

use crate::correlation::{Bands, Correlation};
use crate::gram::Gram;

/// How alike the K fixed kernels of a layer are among themselves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertStats {
    /// Number of fixed kernels.
    pub experts: usize,
    /// `[K][K]`: cosine of two experts' kernels of one output channel, mean over the channels.
    pub cosine: Vec<f64>,
    /// Mean over pairs and channels of |cosine|.
    pub mean_abs: f64,
    /// Largest |cosine| of two experts of one channel.
    pub max_abs: f64,
}

/// The kernels of a layer that an image meets on the mean: a static layer's own; of a dynamic one the experts fused with
/// the coefficients' mean over the images.
///
/// # Shapes
/// `weight [K][c_out][fan_in]`, `mean [K][channels]`; the result `[c_out][fan_in]`.
pub(crate) fn mean_kernels(conv: &Conv2d, weight: &[f32], mean: Option<(&[f64], usize)>) -> Vec<f32> {
    let len = conv.kernel_len();
    let (Some(dynamic), Some((mean, channels))) = (conv.dynamic, mean) else {
        return weight[..len.min(weight.len())].to_vec();
    };
    let fan_in = conv.fan_in();
    let value = |at: usize| {
        let channel = if channels == 1 { 0 } else { at / fan_in };
        (0..dynamic.experts)
            .map(|e| mean[e * channels + channel] * f64::from(weight[e * len + at]))
            .sum::<f64>() as f32
    };
    (0..len).map(value).collect()
}

/// Cosines of the kernels of the output channels.
///
/// # Shapes
/// `kernels [c_out][fan_in]`.
pub fn kernel_cosine(kernels: &[f32], c_out: usize, bands: &Bands) -> Correlation {
    let fan_in = kernels.len() / c_out.max(1);
    let mut gram = Gram::new(c_out, false);
    gram.add(fan_in, |row, column| kernels[column * fan_in + row]);
    Correlation::cosine(&gram.finish(), bands)
}

/// Cosines of the experts of each channel; `None` with fewer than two.
///
/// # Shapes
/// `weight [K][c_out][fan_in]`.
pub(crate) fn expert_cosine(weight: &[f32], experts: usize, c_out: usize) -> Option<ExpertStats> {
    if experts < 2 || c_out == 0 {
        return None;
    }
    let len = weight.len() / experts;
    let fan_in = len / c_out;
    let mut stats =
        ExpertStats { experts, cosine: vec![0.0; experts * experts], mean_abs: 0.0, max_abs: 0.0 };
    let pairs = (experts * (experts - 1) / 2 * c_out) as f64;
    for channel in 0..c_out {
        let kernel = |e: usize| &weight[e * len + channel * fan_in..][..fan_in];
        for i in 0..experts {
            for j in 0..=i {
                let cosine = if i == j { 1.0 } else { cosine(kernel(i), kernel(j)) };
                stats.cosine[i * experts + j] += cosine / c_out as f64;
                if i != j {
                    stats.mean_abs += cosine.abs() / pairs;
                    stats.max_abs = stats.max_abs.max(cosine.abs());
                }
            }
        }
    }
    for i in 0..experts {
        for j in i + 1..experts {
            stats.cosine[i * experts + j] = stats.cosine[j * experts + i];
        }
    }
    Some(stats)
}

/// Cosine of two vectors; 0 where one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm > 0.0 { dot(a, b) / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use dynet_net::DynamicKernel;

    use super::*;

    #[test]
    fn alike_and_opposite_kernels() {
        let kernels = [1.0, 2.0, 0.0, -2.0, -4.0, 0.0, 0.0, 0.0, 3.0];
        let c = kernel_cosine(&kernels, 3, &Bands::default());
        assert!((c.r[1] + 1.0).abs() < 1e-6 && c.r[2].abs() < 1e-6 && c.r[0] == 1.0, "{:?}", c.r);
        assert_eq!((c.stats.pairs, c.stats.constant), (3, 0));
    }

    #[test]
    fn experts_are_compared_channel_by_channel() {
        // Two experts, two channels of two weights: alike in the first, opposite in the second.
        let stats = expert_cosine(&[1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, -3.0], 2, 2).unwrap();
        assert_eq!(stats.cosine, [1.0, 0.0, 0.0, 1.0]);
        assert_eq!((stats.mean_abs, stats.max_abs), (1.0, 1.0));
        assert_eq!(expert_cosine(&[1.0], 1, 1), None);
    }

    #[test]
    fn a_dynamic_layer_is_fused_with_its_mean_coefficients() {
        let mut conv = Conv2d::new(1, 2, 1);
        let weight = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(mean_kernels(&conv, &weight[..2], None), [1.0, 2.0]);
        conv.dynamic = Some(DynamicKernel { experts: 2, head: 0 });
        assert_eq!(mean_kernels(&conv, &weight, Some((&[0.5, 1.0, 0.5, 0.0], 2))), [2.0, 2.0]);
        assert_eq!(mean_kernels(&conv, &weight, Some((&[0.25, 0.75], 1))), [2.5, 3.5]);
    }
}
