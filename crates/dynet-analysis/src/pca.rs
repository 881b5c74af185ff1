//! Principal components: a map of images by their coefficients.

/// The first two principal components of some rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Map2d {
    /// One point a row.
    pub(crate) points: Vec<[f64; 2]>,
    /// Share of the variance along each axis.
    pub(crate) explained: [f64; 2],
}

/// Iterations of the power method; it ends earlier when the direction stands still.
const MAX_STEPS: usize = 200;
/// Change of the unit direction's entries at which it stands still: far below what a picture shows.
const STILL: f64 = 1e-7;

/// Projects rows `[n][d]` on their first two principal components, found by the power method from a fixed start. All zero
/// where nothing varies. The sign of an axis is such that its largest loading is positive.
pub(crate) fn principal_map(rows: &[f32], d: usize) -> Map2d {
    let n = rows.len().checked_div(d).unwrap_or(0);
    let mut mean = vec![0.0_f64; d];
    for row in rows.chunks_exact(d.max(1)) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n.max(1) as f64);
    }
    let centred: Vec<f64> = rows
        .chunks_exact(d.max(1))
        .flat_map(|r| r.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m))
        .collect();
    let total: f64 = centred.iter().map(|x| x * x).sum();
    let mut map = Map2d { points: vec![[0.0; 2]; n], explained: [0.0; 2] };
    // Coefficients that are alike to the last bits of f32 are constant.
    let scale: f64 = mean.iter().map(|m| m * m).sum::<f64>() * n as f64;
    if n < 2 || total <= 1e-13 * scale || total == 0.0 {
        return map;
    }
    let mut axes: Vec<Vec<f64>> = Vec::new();
    for axis in 0..2.min(d) {
        let Some(direction) = leading(&centred, d, &axes, total) else { break };
        let mut variance = 0.0;
        for (point, row) in map.points.iter_mut().zip(centred.chunks_exact(d)) {
            point[axis] = row.iter().zip(&direction).map(|(x, v)| x * v).sum();
            variance += point[axis] * point[axis];
        }
        map.explained[axis] = variance / total;
        axes.push(direction);
    }
    map
}

/// The direction of largest variance that is orthogonal to `found`; `None` where nothing is left.
fn leading(rows: &[f64], d: usize, found: &[Vec<f64>], total: f64) -> Option<Vec<f64>> {
    // Any start that is not orthogonal to the answer; multiples of the golden ratio repeat nothing.
    let mut v: Vec<f64> = (0..d).map(|i| (i as f64 * 0.618_033_988_75).fract() - 0.499).collect();
    if !unit(&mut v, found, 0.0) {
        return None;
    }
    for _ in 0..MAX_STEPS {
        let mut next = vec![0.0; d];
        for row in rows.chunks_exact(d) {
            let along: f64 = row.iter().zip(&v).map(|(x, v)| x * v).sum();
            next.iter_mut().zip(row).for_each(|(s, x)| *s += along * x);
        }
        if !unit(&mut next, found, 1e-12 * total) {
            return None;
        }
        let moved = next.iter().zip(&v).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        v = next;
        if moved < STILL {
            break;
        }
    }
    let largest = v.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
    if largest < 0.0 {
        v.iter_mut().for_each(|x| *x = -*x);
    }
    Some(v)
}

/// Takes the found directions out and scales to length 1; whether more than `least` was left.
fn unit(v: &mut [f64], found: &[Vec<f64>], least: f64) -> bool {
    for axis in found {
        let along: f64 = v.iter().zip(axis).map(|(x, a)| x * a).sum();
        v.iter_mut().zip(axis).for_each(|(x, a)| *x -= along * a);
    }
    let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.iter_mut().for_each(|x| *x /= length);
    length.is_finite() && length > least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_an_ellipse() {
        // Along (3, 4) / 5 ten times as wide as across, far from the origin.
        let rows: Vec<f32> = (0..200)
            .flat_map(|i| {
                let (a, b) = (10.0 * (i as f32 * 0.7).sin(), (i as f32 * 1.3).cos());
                [100.0 + 0.6 * a - 0.8 * b, 50.0 + 0.8 * a + 0.6 * b, 7.0]
            })
            .collect();
        let map = principal_map(&rows, 3);
        assert!((map.explained[0] - 100.0 / 101.0).abs() < 5e-3, "{:?}", map.explained);
        assert!((map.explained[0] + map.explained[1] - 1.0).abs() < 1e-9);
        let width = map.points.iter().map(|p| p[0]).fold(f64::MIN, f64::max);
        assert!((width - 10.0).abs() < 0.2, "{width}");
    }

    #[test]
    fn nothing_varies() {
        let map = principal_map(&[0.25; 40], 4);
        assert_eq!((map.points.len(), map.explained), (10, [0.0; 2]));
        assert!(principal_map(&[], 0).points.is_empty());
        assert_eq!(principal_map(&[1.0, 2.0, 3.0], 1).explained[1], 0.0);
    }
}
