//! Linear CKA: how alike two layers represent the same images (Kornblith et al., 2019).

use rayon::prelude::*;
use serde::Serialize;

/// Products of the centred features of every two images, with what the two indices need of them.
#[derive(Clone, Debug)]
pub struct FeatureGram {
    n: usize,
    /// `[n][n]`, columns centred before.
    k: Vec<f32>,
}

/// How alike two sets of features of the same images are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cka {
    /// `|Y^T X|^2 / (|X^T X| |Y^T Y|)` of centred features, Frobenius norms; 0 to 1.
    pub linear: f64,
    /// The same of the unbiased estimates (Nguyen et al., 2021): about 0 for unrelated features, also where features
    /// outnumber images; may fall below 0. `None` below 4 images.
    pub unbiased: Option<f64>,
}

impl FeatureGram {
    /// Of features `[n][c]`, row-major.
    ///
    /// # Panics
    /// If `features` does not hold whole rows of `c`.
    pub fn new(features: &[f32], c: usize) -> Self {
        assert!(c > 0 && features.len().is_multiple_of(c), "features in rows of {c}");
        let n = features.len() / c;
        let mut mean = vec![0.0_f64; c];
        for row in features.chunks_exact(c) {
            mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n as f64);
        }
        // What is left of a constant is rounding of the mean; values of f32 differ by 6e-8 or not at all.
        let deviation = |(x, m): (&f32, &f64)| {
            let d = f64::from(*x) - m;
            if d.abs() > 1e-12 * m.abs() { d } else { 0.0 }
        };
        let centred: Vec<f64> =
            features.chunks_exact(c).flat_map(|row| row.iter().zip(&mean).map(deviation)).collect();
        let mut k = vec![0.0_f32; n * n];
        k.par_chunks_mut(n.max(1)).enumerate().for_each(|(i, out)| {
            let a = &centred[i * c..(i + 1) * c];
            for (out, b) in out.iter_mut().zip(centred.chunks_exact(c)) {
                *out = dot(a, b) as f32;
            }
        });
        Self { n, k }
    }

    /// Linear CKA of two layers.
    ///
    /// # Panics
    /// If they were made of different numbers of images.
    pub fn cka(&self, other: &Self) -> Cka {
        assert_eq!(self.n, other.n, "images of two layers");
        let ratio = |hsic: &dyn Fn(&Self, &Self) -> f64| {
            let norm = (hsic(self, self) * hsic(other, other)).sqrt();
            if norm > 0.0 { hsic(self, other) / norm } else { 0.0 }
        };
        let linear = ratio(&|a, b| a.k.iter().zip(&b.k).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum());
        let unbiased = (self.n >= 4).then(|| ratio(&unbiased_hsic));
        Cka { linear, unbiased }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, a_rest) = a.as_chunks::<4>();
    let (b, b_rest) = b.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (a, b) in a.iter().zip(b) {
        for i in 0..4 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// `HSIC_1` of Song et al. (2012), without its factor `1 / (n (n - 3))`, which cancels.
fn unbiased_hsic(a: &FeatureGram, b: &FeatureGram) -> f64 {
    let n = a.n;
    let (mut trace, mut sum_a, mut sum_b, mut product) = (0.0, 0.0, 0.0, 0.0);
    for i in 0..n {
        let (mut row_a, mut row_b) = (0.0, 0.0);
        for j in (0..n).filter(|j| *j != i) {
            let (x, y) = (f64::from(a.k[i * n + j]), f64::from(b.k[i * n + j]));
            trace += x * y;
            row_a += x;
            row_b += y;
        }
        sum_a += row_a;
        sum_b += row_b;
        product += row_a * row_b;
    }
    let n = n as f64;
    trace + sum_a * sum_b / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(n: usize, c: usize, seed: usize) -> Vec<f32> {
        (0..n * c).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618).sin()).collect()
    }

    #[test]
    fn rotations_and_scales_do_not_matter_and_unrelated_features_do() {
        let x = features(50, 2, 1);
        let (sin, cos) = 0.7_f32.sin_cos();
        let turned: Vec<f32> = x
            .chunks(2)
            .flat_map(|p| [3.0 * (cos * p[0] - sin * p[1]) + 5.0, 3.0 * (sin * p[0] + cos * p[1])])
            .collect();
        let (a, b) = (FeatureGram::new(&x, 2), FeatureGram::new(&turned, 2));
        let same = a.cka(&b);
        assert!((same.linear - 1.0).abs() < 1e-6 && (same.unbiased.unwrap() - 1.0).abs() < 1e-6, "{same:?}");
        // More features than images: the plain index is high for anything, the unbiased one is not.
        let (wide, other) =
            (FeatureGram::new(&features(30, 200, 2), 200), FeatureGram::new(&features(30, 200, 3), 200));
        let unrelated = wide.cka(&other);
        assert!(unrelated.unbiased.unwrap() < unrelated.linear);
    }

    #[test]
    fn constant_features_are_like_nothing() {
        let a = FeatureGram::new(&[1.0; 20], 2);
        let b = FeatureGram::new(&features(10, 3, 4), 3);
        assert_eq!(a.cka(&b), Cka { linear: 0.0, unbiased: Some(0.0) });
    }
}
