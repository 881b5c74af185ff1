//! Correlation matrices and what they come to: bands, histogram, extremes, effective rank.

use serde::Serialize;

use crate::eigen::{effective_rank, eigenvalues};
use crate::gram::Moments;

/// Bins of the histogram of signed values, over -1 to 1.
pub const BINS: usize = 40;
/// The interval of which the paper says that a dynamic net has more values in it.
pub const NEAR_ZERO: [f64; 2] = [-0.1, 0.2];
/// A variance below this share of the squared mean is rounding: f32 keeps 24 bits, 2^-48 of a square is 4e-15.
const CONSTANT: f64 = 1e-13;

/// Lower ends of the bands of |r|. The paper names the bands and prints no thresholds: these are ours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bands {
    /// `strong` from here on.
    pub strong: f64,
    /// `middle` from here on.
    pub middle: f64,
    /// `weak` from here on; below is `none`.
    pub weak: f64,
}

impl Default for Bands {
    fn default() -> Self {
        Self { strong: 0.7, middle: 0.4, weak: 0.2 }
    }
}

impl Bands {
    /// Names of the bands, strongest first.
    pub const NAMES: [&'static str; 4] = ["strong", "middle", "weak", "none"];

    /// Bands from the lower ends of strong, middle and weak.
    ///
    /// # Errors
    /// Thresholds that do not fall or do not lie between 0 and 1, with what was expected and got.
    pub fn new([strong, middle, weak]: [f64; 3]) -> Result<Self, String> {
        if 1.0 >= strong && strong > middle && middle > weak && weak > 0.0 {
            return Ok(Self { strong, middle, weak });
        }
        Err(format!("bands: expected 1 >= strong > middle > weak > 0, got {strong}, {middle}, {weak}"))
    }

    /// Index of the band of a value.
    fn of(&self, r: f64) -> usize {
        let r = r.abs();
        [self.strong, self.middle, self.weak].iter().position(|low| r >= *low).unwrap_or(3)
    }
}

/// What the correlations of a layer's channels come to. Pairs are unordered, of two channels that are not constant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairStats {
    /// Channels (or kernels, or experts).
    pub channels: usize,
    /// Those without variation (or all zero), which correlate with nothing and are left out.
    pub constant: usize,
    /// Pairs.
    pub pairs: u64,
    /// Shares of pairs whose |r| is strong, middle, weak, none.
    pub bands: [f64; 4],
    /// Share of pairs with r in [-0.1, 0.2].
    pub near_zero: f64,
    /// Mean of |r|.
    pub mean_abs: f64,
    /// Largest |r|.
    pub max_abs: f64,
    /// The r of largest |r|, with its sign.
    pub max_value: f64,
    /// The channels of that pair.
    pub max_pair: [usize; 2],
    /// `exp` of the entropy of the matrix's eigenvalues, 1 to `channels - constant`; 0 without any.
    pub effective_rank: f64,
    /// Pairs by r: `BINS` equal bins over -1 to 1.
    pub histogram: Vec<u64>,
}

impl PairStats {
    /// Effective rank as a share of the channels that vary.
    pub fn rank_share(&self) -> f64 {
        self.effective_rank / (self.channels - self.constant).max(1) as f64
    }

    /// Of several matrices of the same size, their pairs counted together; the effective rank is their mean.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn merged(parts: &[Self]) -> Self {
        let pairs: u64 = parts.iter().map(|s| s.pairs).sum();
        let weight = |s: &Self| s.pairs as f64 / pairs.max(1) as f64;
        let mean = |value: &dyn Fn(&Self) -> f64| parts.iter().map(|s| weight(s) * value(s)).sum();
        let largest = |best: &Self, s: &Self| best.max_abs.total_cmp(&s.max_abs);
        let most = parts.iter().max_by(|a, b| largest(a, b)).expect("at least one part");
        let histogram = |bin: usize| parts.iter().map(|s| s.histogram[bin]).sum();
        Self {
            channels: most.channels,
            constant: parts.iter().map(|s| s.constant).sum(),
            pairs,
            bands: [0, 1, 2, 3].map(|band| mean(&|s| s.bands[band])),
            near_zero: mean(&|s| s.near_zero),
            mean_abs: mean(&|s| s.mean_abs),
            max_abs: most.max_abs,
            max_value: most.max_value,
            max_pair: most.max_pair,
            effective_rank: parts.iter().map(|s| s.effective_rank).sum::<f64>() / parts.len() as f64,
            histogram: (0..BINS).map(histogram).collect(),
        }
    }
}

/// A matrix of correlations (or cosines) with its statistics.
#[derive(Clone, Debug)]
pub struct Correlation {
    /// `[n][n]`; not a number in the rows and columns of constant channels.
    pub r: Vec<f32>,
    /// What it comes to.
    pub stats: PairStats,
}

impl Correlation {
    /// Pearson's product-moment coefficients of the columns.
    pub(crate) fn pearson(moments: &Moments, bands: &Bands) -> Self {
        let n = moments.columns;
        let scatter = moments.scatter();
        let rows = moments.rows.max(1) as f64;
        let varies = (0..n).map(|i| {
            let variance = scatter[i * n + i] / rows;
            variance > CONSTANT * moments.mean(i).powi(2) && variance > f64::from(f32::MIN_POSITIVE)
        });
        Self::normalised(&scatter, &varies.collect::<Vec<_>>(), bands)
    }

    /// Cosines of the columns: products about zero, not about the mean.
    pub(crate) fn cosine(moments: &Moments, bands: &Bands) -> Self {
        let n = moments.columns;
        let varies: Vec<bool> = (0..n).map(|i| moments.products[i * n + i] > 0.0).collect();
        Self::normalised(&moments.products, &varies, bands)
    }

    pub(crate) fn normalised(products: &[f64], varies: &[bool], bands: &Bands) -> Self {
        let n = varies.len();
        let scale: Vec<f64> = (0..n).map(|i| products[i * n + i].sqrt()).collect();
        let value = |at: usize| {
            let (i, j) = (at / n, at % n);
            match (varies[i] && varies[j], i == j) {
                (false, _) => f32::NAN,
                (true, true) => 1.0,
                (true, false) => (products[at] / (scale[i] * scale[j])).clamp(-1.0, 1.0) as f32,
            }
        };
        let r: Vec<f32> = (0..n * n).map(value).collect();
        let stats = pair_stats(&r, varies, bands);
        Self { r, stats }
    }

    /// Pairs of channels by falling |r|, each channel in one pair at most.
    pub(crate) fn most_alike(&self, count: usize) -> Vec<([usize; 2], f32)> {
        let n = self.stats.channels;
        let mut pairs: Vec<(u32, u32, f32)> = Vec::new();
        for i in 0..n {
            // The best partner of each channel: the strongest disjoint pairs are among these.
            let row = (i + 1..n).map(|j| (j, self.r[i * n + j])).filter(|(_, r)| r.is_finite());
            if let Some((j, r)) = row.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())) {
                pairs.push((i as u32, j as u32, r));
            }
        }
        pairs.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
        let mut used = vec![false; n];
        let mut chosen = Vec::new();
        for (i, j, r) in pairs {
            let pair = [i as usize, j as usize];
            if chosen.len() < count && pair.iter().all(|c| !used[*c]) {
                pair.iter().for_each(|c| used[*c] = true);
                chosen.push((pair, r));
            }
        }
        chosen
    }
}

fn pair_stats(r: &[f32], varies: &[bool], bands: &Bands) -> PairStats {
    let n = varies.len();
    let kept: Vec<usize> = (0..n).filter(|i| varies[*i]).collect();
    let mut stats = PairStats {
        channels: n,
        constant: n - kept.len(),
        pairs: 0,
        bands: [0.0; 4],
        near_zero: 0.0,
        mean_abs: 0.0,
        max_abs: 0.0,
        max_value: 0.0,
        max_pair: [0, 0],
        effective_rank: 0.0,
        histogram: vec![0; BINS],
    };
    for (at, &i) in kept.iter().enumerate() {
        for &j in &kept[at + 1..] {
            let r = f64::from(r[i * n + j]);
            stats.pairs += 1;
            stats.bands[bands.of(r)] += 1.0;
            stats.near_zero += f64::from(u8::from((NEAR_ZERO[0]..=NEAR_ZERO[1]).contains(&r)));
            stats.mean_abs += r.abs();
            if r.abs() > stats.max_abs {
                (stats.max_abs, stats.max_value, stats.max_pair) = (r.abs(), r, [i, j]);
            }
            let bin = ((r + 1.0) / 2.0 * BINS as f64) as usize;
            stats.histogram[bin.min(BINS - 1)] += 1;
        }
    }
    let pairs = stats.pairs.max(1) as f64;
    stats.bands.iter_mut().for_each(|share| *share /= pairs);
    stats.near_zero /= pairs;
    stats.mean_abs /= pairs;
    let kept_r: Vec<f64> =
        kept.iter().flat_map(|i| kept.iter().map(move |j| f64::from(r[i * n + j]))).collect();
    stats.effective_rank = effective_rank(&eigenvalues(&kept_r, kept.len())).unwrap_or(0.0);
    stats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gram::Gram;

    fn noise(row: usize, column: usize) -> f32 {
        let mut x = (row as u64 * 1_000_003 + column as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    fn pearson(columns: usize, rows: usize, value: impl Fn(usize, usize) -> f32) -> Correlation {
        let mut gram = Gram::new(columns, true);
        gram.add(rows, value);
        Correlation::pearson(&gram.finish(), &Bands::default())
    }

    #[test]
    fn planted_duplicates_correlate_fully_and_negated_ones_negatively() {
        // Column 1 doubles and moves column 0, column 2 negates it, column 3 has nothing to do with it.
        let c = pearson(4, 5000, |row, column| match column {
            0 => noise(row, 0),
            1 => 2.0 * noise(row, 0) + 3.0,
            2 => -noise(row, 0),
            _ => noise(row, 9),
        });
        assert!((c.r[1] - 1.0).abs() < 1e-6 && (c.r[2] + 1.0).abs() < 1e-6, "{:?}", &c.r[..4]);
        assert!((c.r[6] + 1.0).abs() < 1e-6);
        assert!(c.r[3].abs() < 0.05);
        assert_eq!(c.stats.bands, [0.5, 0.0, 0.0, 0.5]);
        assert_eq!((c.stats.near_zero, c.stats.pairs), (0.5, 6));
        // Three columns are one direction, the fourth another: shares 3/4 and 1/4.
        let expected = (-(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln())).exp();
        assert!((c.stats.effective_rank - expected).abs() < 0.01, "{}", c.stats.effective_rank);
        let alike = c.most_alike(5);
        assert!(alike.len() == 1 && alike[0].1.abs() > 0.999, "one pair holds two of the three: {alike:?}");
    }

    #[test]
    fn constant_channels_are_left_out_and_counted() {
        // A large constant, whose mean is not representable, and a dead channel.
        let c = pearson(4, 300, |row, column| match column {
            0 => 1234.567,
            1 => 0.0,
            other => noise(row, other),
        });
        assert_eq!((c.stats.channels, c.stats.constant, c.stats.pairs), (4, 2, 1));
        assert!(c.r[1].is_nan() && c.r[2].is_nan() && c.r[11].is_finite());
        assert!(c.stats.mean_abs.is_finite() && c.stats.effective_rank > 1.9);
        let dead = pearson(3, 10, |_, _| 0.0);
        assert_eq!((dead.stats.constant, dead.stats.effective_rank), (3, 0.0));
        assert!(dead.most_alike(3).is_empty());
    }

    #[test]
    fn a_large_mean_does_not_hide_small_variation() {
        let c = pearson(2, 4000, |row, column| {
            1000.0 + if column == 0 { noise(row, 0) } else { 0.5 * noise(row, 0) + 0.5 * noise(row, 1) }
        });
        // Both halves have equal variance: r = 1 / sqrt(2). Values near 1000 are rounded to 2^-14.
        assert!((c.r[1] - std::f32::consts::FRAC_1_SQRT_2).abs() < 0.02, "{}", c.r[1]);
    }

    #[test]
    fn bands_fall() {
        let bands = Bands::new([0.8, 0.5, 0.1]).unwrap();
        assert_eq!([0.8, -0.79, -0.1, 0.09].map(|r| bands.of(r)), [0, 1, 2, 3]);
        for bad in [[0.5, 0.5, 0.1], [1.1, 0.5, 0.1], [0.5, 0.2, 0.0], [f64::NAN, 0.2, 0.1]] {
            assert!(Bands::new(bad).unwrap_err().contains("expected"), "{bad:?}");
        }
    }
}
