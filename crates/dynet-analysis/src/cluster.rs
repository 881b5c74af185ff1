//! An order of channels in which blocks of alike ones show.

/// The leaves' order of a hierarchical clustering with average linkage, of distances `1 - |r|`, so that the positive and
/// the negative of one map lie together. Of two joined clusters the larger comes first.
///
/// # Shapes
/// `r [n][n]`; values that are not finite count as uncorrelated.
pub(crate) fn cluster_order(r: &[f32], n: usize) -> Vec<usize> {
    assert_eq!(r.len(), n * n, "a matrix of {n} x {n}");
    let distance = |v: &f32| if v.is_finite() { 1.0 - v.abs() } else { 1.0 };
    let mut d: Vec<f32> = r.iter().map(distance).collect();
    let mut members: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
    let mut alive: Vec<usize> = (0..n).collect();
    // Nearest-neighbour chains: average linkage is reducible, so two clusters that are each other's nearest can be joined
    // at once; the whole takes n^2 steps.
    let mut chain: Vec<usize> = Vec::new();
    while alive.len() > 1 {
        let tip = *chain.last().unwrap_or(&alive[0]);
        if chain.is_empty() {
            chain.push(tip);
        }
        let before = chain.len().checked_sub(2).map(|i| chain[i]);
        let mut nearest = before;
        for &other in &alive {
            let closer = |best: usize| d[tip * n + other] < d[tip * n + best];
            if other != tip && nearest.is_none_or(closer) {
                nearest = Some(other);
            }
        }
        let Some(nearest) = nearest else { break };
        if Some(nearest) != before {
            chain.push(nearest);
            continue;
        }
        chain.truncate(chain.len() - 2);
        let (keep, gone) = (tip.min(nearest), tip.max(nearest));
        let (wk, wg) = (members[keep].len() as f32, members[gone].len() as f32);
        for &other in &alive {
            let mean = (wk * d[keep * n + other] + wg * d[gone * n + other]) / (wk + wg);
            d[keep * n + other] = mean;
            d[other * n + keep] = mean;
        }
        let (mut a, mut b) = (std::mem::take(&mut members[keep]), std::mem::take(&mut members[gone]));
        if b.len() > a.len() {
            std::mem::swap(&mut a, &mut b);
        }
        a.extend(b);
        members[keep] = a;
        alive.retain(|c| *c != gone);
    }
    alive.first().map_or_else(Vec::new, |last| std::mem::take(&mut members[*last]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_blocks_come_apart() {
        // Channels of equal remainder by 3 are alike, some negated.
        let n = 12;
        let entry = |i: usize, j: usize| match (i % 3 == j % 3, (i / 3 + j / 3).is_multiple_of(2)) {
            _ if i == j => 1.0,
            (true, true) => 0.9,
            (true, false) => -0.9,
            _ => 0.05,
        };
        let r: Vec<f32> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
        let order = cluster_order(&r, n);
        let blocks: Vec<usize> = order.iter().map(|i| i % 3).collect();
        let changes = blocks.windows(2).filter(|w| w[0] != w[1]).count();
        assert_eq!(changes, 2, "{blocks:?}");
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn constants_and_empty_matrices_have_an_order_too() {
        assert_eq!(cluster_order(&[], 0), Vec::<usize>::new());
        assert_eq!(cluster_order(&[f32::NAN], 1), [0]);
        assert_eq!(cluster_order(&[f32::NAN; 9], 3).len(), 3);
    }
}
