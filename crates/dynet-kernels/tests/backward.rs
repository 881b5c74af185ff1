//! Training kernels against the naive convolution: gradients as adjoints, `<dY, F(X)> = <F'(dY), X>`, which holds for
//! each operand that an operation is linear in; on every instruction set, for one thread and two.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use dynet_kernels::backward::{Dense, Goal, Grouped, Sgd, Team, Update, Window};
use dynet_kernels::{Border, Geometry, Isa, Pixels, reference};

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The same sum of products to a few roundings of its largest terms.
fn same(a: f64, b: f64, scale: f64, what: &str) {
    assert!((a - b).abs() < 1e-5 * scale.max(1.0), "{what}: {a} and {b}");
}

/// `update` leaves the bits of an update from the gradient, in the weights and in the velocity.
fn updated(
    team: &mut Team,
    layer: &Dense<'_>,
    dw: &[f32],
    label: &str,
    update: impl FnOnce(&mut Team, Dense<'_>, Goal<'_>),
) {
    let sgd = Sgd { rate: 0.1, momentum: 0.9, nesterov: true, decay: 0.01, scale: 1.0 };
    let (mut wanted, mut velocity) = (layer.weights.to_vec(), noise(dw.len(), 6));
    let (mut got, mut own) = (wanted.clone(), velocity.clone());
    Update::sgd(&sgd, &mut wanted, Some(&mut velocity)).step(team, dw);
    let goal = Goal::Update(Update::sgd(&sgd, &mut got, Some(&mut own)));
    update(team, Dense { weights: &[], ..*layer }, goal);
    assert!(got == wanted && own == velocity, "{label}: an update on the way");
}

struct Case {
    geometry: Geometry,
    channels: [usize; 2],
    groups: usize,
    experts: usize,
}

const IMAGES: usize = 3;

impl Case {
    /// `[images][output pixels][c_out]`, fused with the coefficients.
    fn reference(&self, x: &[f32], w: &[f32], coefs: &[f32]) -> Vec<f64> {
        let [c_in, c_out] = self.channels;
        let len = c_in / self.groups * self.geometry.taps();
        let input = self.geometry.input[0] * self.geometry.input[1];
        let each = |i: usize| {
            let own = &coefs[i * self.experts * c_out..][..self.experts * c_out];
            let fused = reference::fuse(w, own, c_out, len);
            let x = Pixels::new(&x[i * input * c_in..], c_in);
            reference::conv(x, &self.geometry, Border::Zeros, &fused, c_out, self.groups)
        };
        (0..IMAGES).flat_map(each).collect()
    }

    fn check(&self, isa: Isa, threads: usize) -> Vec<Vec<f32>> {
        let label = format!("{isa}, {:?}, {:?}", self.geometry, self.channels);
        let mut team = Team::new(isa, threads).unwrap();
        let window = Window::new(&self.geometry, IMAGES);
        let [c_in, c_out] = self.channels;
        let (inputs, outputs) = (window.inputs() * c_in * IMAGES, window.outputs() * c_out * IMAGES);
        let x = noise(inputs, 1);
        let weights = noise(self.experts * c_out * (c_in / self.groups) * self.geometry.taps(), 2);
        let dynamic = self.experts > 1;
        let coefs = if dynamic { noise(IMAGES * self.experts * c_out, 3) } else { vec![1.0; IMAGES * c_out] };
        let dy = noise(outputs, 4);
        let mut y = vec![f32::NAN; outputs];
        let (mut dx, mut dw) = (vec![f32::NAN; inputs], vec![f32::NAN; weights.len()]);
        let mut d_coefs = vec![f32::NAN; if dynamic { coefs.len() } else { 0 }];
        let mut added = noise(inputs, 5);
        let experts = self.experts;
        if self.groups == 1 {
            let d = Dense { window: &window, c_in, c_out, experts, weights: &weights };
            if dynamic {
                d.forward_fused(&mut team, &coefs, &x, None, &mut y);
                d.backward_input_fused(&mut team, &coefs, &dy, &mut dx, false);
                d.backward_input_fused(&mut team, &coefs, &dy, &mut added, true);
                let goal = Goal::Gradient(&mut dw);
                d.backward_weights_fused(&mut team, &coefs, [&x, &dy], goal, &mut d_coefs);
                updated(&mut team, &d, &dw, &label, |team, d, goal| {
                    let mut other = vec![f32::NAN; coefs.len()];
                    d.backward_weights_fused(team, &coefs, [&x, &dy], goal, &mut other);
                    assert!(other == d_coefs, "{label}: other coefficients' gradients with an update");
                });
            } else {
                d.forward(&mut team, &x, None, &mut y);
                d.backward_input(&mut team, &dy, &mut dx, false);
                d.backward_input(&mut team, &dy, &mut added, true);
                d.backward_weights(&mut team, [&x, &dy], Goal::Gradient(&mut dw));
                updated(&mut team, &d, &dw, &label, |team, d, goal| {
                    d.backward_weights(team, [&x, &dy], goal);
                });
            }
        } else {
            let g = Grouped { window: &window, c_in, c_out, groups: self.groups, experts, weights: &weights };
            let own = dynamic.then_some(&coefs[..]);
            g.forward(&mut team, own, &x, None, &mut y);
            g.backward_input(&mut team, own, &dy, &mut dx, false);
            g.backward_input(&mut team, own, &dy, &mut added, true);
            g.backward_weights(&mut team, own, [&x, &dy], &mut dw, &mut d_coefs);
        }
        let wanted = self.reference(&x, &weights, &coefs);
        let terms = (self.geometry.taps() * c_in / self.groups * experts) as f64;
        for (i, (y, wanted)) in y.iter().zip(&wanted).enumerate() {
            same(f64::from(*y), *wanted, terms, &format!("{label}: output {i}"));
        }
        let product = |x: &[f32], w: &[f32], c: &[f32]| -> f64 {
            self.reference(x, w, c).iter().zip(&dy).map(|(y, d)| y * f64::from(*d)).sum()
        };
        let scale = (outputs as f64 * terms).sqrt();
        for seed in 10..13 {
            let other = noise(inputs, seed);
            same(dot(&dx, &other), product(&other, &weights, &coefs), scale, &format!("{label}: dX"));
            let other = noise(weights.len(), seed);
            same(dot(&dw, &other), product(&x, &other, &coefs), scale, &format!("{label}: dW"));
            if dynamic {
                let other = noise(coefs.len(), seed);
                same(dot(&d_coefs, &other), product(&x, &weights, &other), scale, &format!("{label}: dC"));
            }
        }
        let before = noise(inputs, 5);
        for ((sum, dx), before) in added.iter().zip(&dx).zip(before) {
            same(f64::from(*sum), f64::from(dx + before), terms, &format!("{label}: dX added"));
        }
        vec![y, dx, dw, d_coefs]
    }
}

#[test]
fn gradients_are_adjoints() {
    let g = |input, k, stride| Geometry::same(input, k, stride);
    let odd = Geometry { input: [9, 8], kernel: [3, 2], stride: [2, 3], padding: [1, 2], dilation: [1, 3] };
    let mut cases = Vec::new();
    for experts in [1, 2, 3, 4, 5] {
        for (geometry, channels, groups) in [
            (g([1, 1], 1, 1), [37, 4], 1),
            (g([7, 5], 1, 1), [5, 33], 1),
            (g([8, 8], 3, 1), [17, 40], 1),
            (g([9, 8], 3, 2), [40, 17], 1),
            (g([6, 6], 1, 2), [16, 20], 1),
            (g([11, 11], 7, 2), [3, 16], 1),
            (odd, [5, 6], 1),
            (g([3, 3], 3, 1), [120, 34], 1),
            (g([2, 2], 3, 1), [130, 133], 1),
            (g([2, 2], 1, 1), [1050, 9], 1),
            (g([1, 1], 1, 1), [1103, 53], 1),
            (g([2, 1], 1, 1), [261, 50], 1),
            (g([1, 1], 3, 1), [50, 35], 1),
            (g([2, 2], 5, 1), [130, 133], 1),
            (g([3, 2], 7, 2), [140, 129], 1),
            (g([2, 4], 1, 1), [33, 49], 1),
            (g([4, 4], 3, 1), [19, 21], 1),
            (g([4, 4], 3, 2), [9, 130], 1),
            (g([47, 45], 3, 2), [2, 5], 1),
            (g([7, 7], 3, 1), [37, 37], 37),
            (g([8, 9], 5, 2), [19, 19], 19),
            (g([9, 7], 5, 1), [67, 67], 67),
            (g([1, 2], 3, 2), [32, 32], 32),
            (g([8, 9], 3, 2), [12, 18], 6),
            (g([5, 5], 3, 1), [36, 36], 6),
        ] {
            cases.push(Case { geometry, channels, groups, experts });
        }
    }
    for isa in Isa::available() {
        for case in &cases {
            let one = case.check(isa, 1);
            assert!(one == case.check(isa, 2), "{isa}, {:?}: other bits with two threads", case.geometry);
        }
    }
}

#[test]
fn a_bias_is_added_once() {
    // By sums along rows in two pieces, by panels of few rows, and of many.
    for (c_in, c_out, images) in [(1100, 50, 5), (40, 70, 5), (40, 19, 150)] {
        let window = Window::new(&Geometry::same([1, 1], 1, 1), images);
        let (x, weights, bias) = (noise(images * c_in, 1), noise(c_out * c_in, 2), noise(c_out, 3));
        let d = Dense { window: &window, c_in, c_out, experts: 1, weights: &weights };
        for isa in Isa::available() {
            let mut team = Team::new(isa, 2).unwrap();
            let [mut plain, mut with] = [(); 2].map(|()| vec![f32::NAN; images * c_out]);
            d.forward(&mut team, &x, None, &mut plain);
            d.forward(&mut team, &x, Some(&bias), &mut with);
            for (i, (with, plain)) in with.iter().zip(&plain).enumerate() {
                let wanted = f64::from(*plain) + f64::from(bias[i % c_out]);
                same(f64::from(*with), wanted, c_in as f64, &format!("{isa}, {c_in}: output {i}"));
            }
        }
    }
}

#[test]
fn many_images_are_the_images_of_two_batches() {
    // Images are gone through in more than one piece, or in more than one part of the job.
    two_batches([4, 4], [18, 35], 4, 160);
    two_batches([4, 4], [16, 16], 8, 140);
    two_batches([5, 5], [16, 16], 8, 140);
    two_batches([28, 28], [8, 8], 8, 140);
}

fn two_batches(size: [usize; 2], [c_in, c_out]: [usize; 2], experts: usize, images: usize) {
    let geometry = Geometry::same(size, 3, 1);
    let pixels = size[0] * size[1];
    let (x, dy) = (noise(images * pixels * c_in, 1), noise(images * pixels * c_out, 2));
    let (weights, coefs) = (noise(experts * c_out * c_in * 9, 3), noise(images * experts * c_out, 4));
    for isa in Isa::available() {
        let mut team = Team::new(isa, 2).unwrap();
        let mut gradients = |from: usize, to: usize| {
            let window = Window::new(&geometry, to - from);
            let d = Dense { window: &window, c_in, c_out, experts, weights: &weights };
            let part = |all: &[f32]| all[all.len() / images * from..all.len() / images * to].to_vec();
            let (coefs, x, dy) = (part(&coefs), part(&x), part(&dy));
            let (mut dw, mut d_coefs) = (vec![f32::NAN; weights.len()], vec![f32::NAN; coefs.len()]);
            d.backward_weights_fused(&mut team, &coefs, [&x, &dy], Goal::Gradient(&mut dw), &mut d_coefs);
            updated(&mut team, &d, &dw, &format!("{isa}, {from}..{to}"), |team, d, goal| {
                let mut other = vec![f32::NAN; coefs.len()];
                d.backward_weights_fused(team, &coefs, [&x, &dy], goal, &mut other);
                assert!(other == d_coefs, "{isa}: other coefficients' gradients with an update");
            });
            (dw, d_coefs)
        };
        let (dw, d_coefs) = gradients(0, images);
        let (first, second) = (gradients(0, 70), gradients(70, images));
        assert!(d_coefs == [first.1, second.1].concat(), "{isa}: coefficients see their image alone");
        for (i, (sum, (a, b))) in dw.iter().zip(first.0.iter().zip(&second.0)).enumerate() {
            same(f64::from(*sum), f64::from(a + b), (images * pixels) as f64, &format!("{isa}: weight {i}"));
        }
    }
}
