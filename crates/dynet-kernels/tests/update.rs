//! The optimizers' updates against their formulas in f64, on every instruction set, over the edges of parts and registers.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use dynet_kernels::Isa;
use dynet_kernels::backward::{AdamW, Sgd, Team, Update, average, square_sum};

/// Some lengths within a register, and one of three parts with a rest.
const LENGTHS: [usize; 5] = [0, 1, 7, 19, 2 * (1 << 15) + 13];

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// Each value to a few roundings of terms of size 1.
fn same(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() < 1e-6, "{what}: value {i} is {got}, expected {want}");
    }
}

/// Calls `check` for each instruction set and length, with weights, two kinds of state (the second positive) and a
/// gradient; what it returns must be the same bits for two threads.
fn everywhere(check: impl Fn(&mut Team, &str, [Vec<f32>; 4]) -> Vec<Vec<f32>>) {
    for isa in Isa::available() {
        for len in LENGTHS {
            let [w, a, b, g] = [1, 2, 3, 4].map(|seed| noise(len, seed));
            let all = [w, a, b.iter().map(|x| x * x).collect(), g];
            let label = format!("{isa}, {len} values");
            let [one, two] =
                [1, 2].map(|threads| check(&mut Team::new(isa, threads).unwrap(), &label, all.clone()));
            assert_eq!(one, two, "{label}: one thread and two");
        }
    }
}

#[test]
fn sgd_follows_pytorchs_formulas() {
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        let sgd = Sgd { rate: 0.1, momentum, nesterov, decay: 0.01, scale: 0.5 };
        everywhere(|team, label, [w, v, _, g]| {
            let (mut new_w, mut new_v) = (w.clone(), v.clone());
            let velocity = (momentum > 0.0).then_some(&mut new_v[..]);
            Update::sgd(&sgd, &mut new_w, velocity).step(team, &g);
            let (mut want_w, mut want_v) = (Vec::new(), Vec::new());
            for ((w, v), g) in w.iter().zip(&v).zip(&g).map(|((w, v), g)| ((f64::from(*w), f64::from(*v)), g))
            {
                let g = 0.5 * f64::from(*g) + 0.01 * w;
                let speed = momentum * v + g;
                want_w.push(w - 0.1 * if nesterov { g + momentum * speed } else { speed });
                want_v.push(if momentum > 0.0 { speed } else { v });
            }
            same(&new_w, &want_w, label);
            same(&new_v, &want_v, label);
            vec![new_w, new_v]
        });
    }
}

#[test]
fn adamw_follows_its_formula() {
    let adamw = AdamW { rate: 0.1, betas: [0.9, 0.99], epsilon: 0.01, decay: 0.2, scale: 0.5, steps: 3 };
    everywhere(|team, label, [w, mean, square, g]| {
        let (mut new_w, mut new_mean, mut new_square) = (w.clone(), mean.clone(), square.clone());
        Update::adamw(&adamw, &mut new_w, [&mut new_mean, &mut new_square]).step(team, &g);
        let (mut want_w, mut want_mean, mut want_square) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..w.len() {
            let [w, mean, square, g] = [w[i], mean[i], square[i], g[i]].map(f64::from);
            let g = 0.5 * g;
            let [mean, square] = [0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g];
            let root = (square / (1.0 - 0.99_f64.powi(3))).sqrt() + 0.01;
            want_w.push(w - 0.1 * 0.2 * w - 0.1 * (mean / (1.0 - 0.9_f64.powi(3))) / root);
            want_mean.push(mean);
            want_square.push(square);
        }
        // Where the root is near epsilon it divides by a hundredth.
        let few = |got: &[f32]| got.iter().map(|x| x / 16.0).collect::<Vec<_>>();
        same(&few(&new_w), &want_w.iter().map(|x| x / 16.0).collect::<Vec<_>>(), label);
        same(&new_mean, &want_mean, label);
        same(&new_square, &want_square, label);
        vec![new_w, new_mean, new_square]
    });
}

#[test]
fn means_and_sums_of_squares() {
    everywhere(|team, label, [mean, values, ..]| {
        let mut new = mean.clone();
        average(team, &mut new, &values, 0.75);
        let want = mean.iter().zip(&values).map(|(m, x)| 0.75 * f64::from(*m) + 0.25 * f64::from(*x));
        same(&new, &want.collect::<Vec<_>>(), label);
        let sum = square_sum(team, &values);
        let want: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((sum - want).abs() <= 1e-6 * want, "{label}: {sum}, expected {want}");
        vec![new, vec![sum as f32]]
    });
}
