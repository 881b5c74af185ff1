//! How alike the kernels of a layer are, and its experts among themselves: cosines.

use dynet_net::Conv2d;
use serde::Serialize;

use crate::correlation::{Bands, Correlation, PairStats};
use crate::gram::Gram;

/// How alike the K fixed kernels of a layer are among themselves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertStats {
    /// Number of fixed kernels.
    pub experts: usize,
    /// `[K][K]`: cosine of two experts' kernels of one output channel, mean over the channels.
    pub cosine: Vec<f64>,
    /// The cosines of all pairs of all channels; its effective rank, 1 to K, is the mean over the channels.
    pub stats: PairStats,
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
pub(crate) fn expert_cosine(
    weight: &[f32],
    experts: usize,
    c_out: usize,
    bands: &Bands,
) -> Option<ExpertStats> {
    if experts < 2 || c_out == 0 {
        return None;
    }
    let len = weight.len() / experts;
    let fan_in = len / c_out;
    let mut cosine = vec![0.0; experts * experts];
    let mut parts = Vec::with_capacity(c_out);
    for channel in 0..c_out {
        let kernel = |e: usize| &weight[e * len + channel * fan_in..][..fan_in];
        let products: Vec<f64> =
            (0..experts * experts).map(|at| dot(kernel(at / experts), kernel(at % experts))).collect();
        let varies: Vec<bool> = (0..experts).map(|e| products[e * experts + e] > 0.0).collect();
        let one = Correlation::normalised(&products, &varies, bands);
        // A kernel of zeros is like no other.
        let finite = |r: &f32| if r.is_finite() { f64::from(*r) } else { 0.0 };
        cosine.iter_mut().zip(&one.r).for_each(|(sum, r)| *sum += finite(r) / c_out as f64);
        parts.push(one.stats);
    }
    Some(ExpertStats { experts, cosine, stats: PairStats::merged(&parts) })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

#[cfg(test)]
mod tests {
    use dynet_net::DynamicKernel;

    use super::*;
    use crate::correlation::BINS;

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
        let bands = Bands::default();
        let experts = expert_cosine(&[1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, -3.0], 2, 2, &bands).unwrap();
        assert_eq!(experts.cosine, [1.0, 0.0, 0.0, 1.0]);
        let s = experts.stats;
        assert_eq!((s.channels, s.pairs, s.mean_abs, s.max_abs), (2, 2, 1.0, 1.0));
        assert_eq!((s.bands, s.near_zero), ([1.0, 0.0, 0.0, 0.0], 0.0));
        assert_eq!((s.histogram[0], s.histogram[BINS - 1]), (1, 1));
        assert!((s.effective_rank - 1.0).abs() < 1e-9, "{}", s.effective_rank);
        assert_eq!(expert_cosine(&[1.0], 1, 1, &bands), None);
        // Three experts at right angles in one channel; in the other two alike and one of zeros, which counts in no pair.
        let weight =
            [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let experts = expert_cosine(&weight, 3, 2, &bands).unwrap();
        assert_eq!((experts.stats.pairs, experts.stats.constant), (4, 1));
        assert_eq!((experts.stats.bands, experts.cosine[1]), ([0.25, 0.0, 0.0, 0.75], 0.5));
        // Ranks 3 and 1.
        assert!((experts.stats.effective_rank - 2.0).abs() < 1e-6, "{}", experts.stats.effective_rank);
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
