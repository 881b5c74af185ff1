//! Comparison of many values at once.

/// Largest difference, over the largest wanted value: what is small beside it may be all rounding. Where only zeros
/// are wanted, zeros must come.
pub(crate) fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many values");
    let largest = want.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
    let error = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs());
    // Not `f64::max`, which would let a NaN pass.
    error.fold(0.0, |max, e| if e <= max { max } else { e }) / largest.max(f64::MIN_POSITIVE)
}
