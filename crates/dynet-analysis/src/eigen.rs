//! Eigenvalues of symmetric matrices.

/// All eigenvalues of a symmetric matrix `[n][n]`, largest first: Householder's reduction to a tridiagonal matrix,
/// then QL steps with implicit shifts (Golub and Van Loan, Matrix Computations, 8.3). Not-a-number where the steps do
/// not converge, which rounding has never been seen to cause.
pub(crate) fn eigenvalues(matrix: &[f64], n: usize) -> Vec<f64> {
    assert_eq!(matrix.len(), n * n, "a matrix of {n} x {n}");
    let (mut diagonal, mut beside) = tridiagonal(matrix.to_vec(), n);
    if !ql(&mut diagonal, &mut beside) {
        diagonal.fill(f64::NAN);
    }
    diagonal.sort_by(|a, b| b.total_cmp(a));
    diagonal
}

/// The diagonal, and the values beside it (the last one is 0).
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n];
    let mut v = vec![0.0; n];
    let mut p = vec![0.0; n];
    for k in 0..n.saturating_sub(2) {
        // Column k below the diagonal is reflected onto its first entry.
        let m = n - k - 1;
        for i in 0..m {
            v[i] = a[(k + 1 + i) * n + k];
        }
        let tail: f64 = v[1..m].iter().map(|x| x * x).sum();
        let norm = (v[0] * v[0] + tail).sqrt();
        if tail == 0.0 || norm == 0.0 {
            beside[k] = v[0];
            continue;
        }
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        beside[k] = alpha;
        v[0] -= alpha;
        let scale = 2.0 / (v[0] * v[0] + tail);
        // A <- H A H with H = I - scale v v^T: A - v q^T - q v^T, q = scale (A v) - scale^2 / 2 (v^T A v) v.
        for i in 0..m {
            let row = &a[(k + 1 + i) * n + k + 1..][..m];
            p[i] = scale * row.iter().zip(&v[..m]).map(|(x, y)| x * y).sum::<f64>();
        }
        let half = 0.5 * scale * p[..m].iter().zip(&v[..m]).map(|(x, y)| x * y).sum::<f64>();
        for i in 0..m {
            p[i] -= half * v[i];
        }
        for i in 0..m {
            let (vi, pi) = (v[i], p[i]);
            let row = &mut a[(k + 1 + i) * n + k + 1..][..m];
            for (x, (vj, pj)) in row.iter_mut().zip(v[..m].iter().zip(&p[..m])) {
                *x -= vi * pj + pi * vj;
            }
        }
    }
    if n >= 2 {
        beside[n - 2] = a[(n - 1) * n + n - 2];
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside)
}

/// Turns a tridiagonal matrix into its eigenvalues, on the diagonal; whether it came to an end.
fn ql(d: &mut [f64], e: &mut [f64]) -> bool {
    const MAX_STEPS: usize = 60;
    let n = d.len();
    for l in 0..n {
        for step in 0.. {
            let small = |i: usize| e[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs());
            let m = (l..n - 1).find(|i| small(*i)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if step == MAX_STEPS {
                return false;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut stopped = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    stopped = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
            }
            if !stopped {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    true
}

/// Effective rank (Roy and Vetterli, 2007): `exp` of the entropy of the eigenvalues' shares of their sum. From 1, all
/// in one direction, to n, all directions alike. `None` where all are zero.
pub(crate) fn effective_rank(eigenvalues: &[f64]) -> Option<f64> {
    let sum: f64 = eigenvalues.iter().filter(|v| **v > 0.0).sum();
    if !(sum.is_finite() && sum > 0.0) {
        return None;
    }
    let entropy: f64 = eigenvalues
        .iter()
        .map(|v| v / sum)
        .filter(|share| *share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    Some(entropy.exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_matrices() {
        assert_eq!(eigenvalues(&[], 0), Vec::<f64>::new());
        assert_eq!(eigenvalues(&[3.0], 1), [3.0]);
        let got = eigenvalues(&[2.0, 1.0, 1.0, 2.0], 2);
        assert!((got[0] - 3.0).abs() < 1e-14 && (got[1] - 1.0).abs() < 1e-14, "{got:?}");
        // The second difference matrix: 2 - 2 cos(pi k / (n + 1)).
        let n = 9;
        let entry = |i: usize, j: usize| match i.abs_diff(j) {
            0 => 2.0,
            1 => -1.0,
            _ => 0.0,
        };
        let matrix: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
        for (k, got) in eigenvalues(&matrix, n).into_iter().rev().enumerate() {
            let expected = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / 10.0).cos();
            assert!((got - expected).abs() < 1e-13, "{k}: {got}, expected {expected}");
        }
    }

    #[test]
    fn trace_and_squares_are_kept() {
        let n = 40;
        let entry = |i: usize, j: usize| ((i * j + i + j) as f64).sin();
        let matrix: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
        let got = eigenvalues(&matrix, n);
        let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
        let squares: f64 = matrix.iter().map(|v| v * v).sum();
        assert!((got.iter().sum::<f64>() - trace).abs() < 1e-10);
        assert!((got.iter().map(|v| v * v).sum::<f64>() - squares).abs() < 1e-9);
    }

    #[test]
    fn the_rank_of_equal_directions_is_their_number() {
        assert!((effective_rank(&[1.0; 7]).unwrap() - 7.0).abs() < 1e-12);
        assert!((effective_rank(&[5.0, 0.0, -1e-18]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(effective_rank(&[0.0, 0.0]), None);
    }
}
