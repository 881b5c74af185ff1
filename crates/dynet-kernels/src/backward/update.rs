//! The optimizer's updates, each in one pass over the memory, which is what binds them.
//!
//! Products and sums are rounded one by one, as a framework does that makes them one after the other.

use crate::backward::team::{Raw, Team};
use crate::vector::{Job, MAX_LANES, Vector};

/// Values of a part of the job.
const CHUNK: usize = 1 << 15;

/// Stochastic gradient descent in PyTorch's forms: `g += decay w`, `v = momentum v + g`, then `w -= rate v`, or with
/// Nesterov `w -= rate (g + momentum v)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub rate: f64,
    /// Share of the last velocity that stays; with 0 there is no velocity.
    pub momentum: f64,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// Pull of the weights towards zero.
    pub decay: f64,
    /// Factor on the gradient before all else.
    pub scale: f64,
}

/// Adam with bias correction, the decay apart from it (Loshchilov and Hutter, 2019): `w -= rate decay w` first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f64,
    /// Shares of the running means of the gradient and of its square that stay.
    pub betas: [f64; 2],
    /// Added to the root of the squares' mean.
    pub epsilon: f64,
    /// Pull of the weights towards zero.
    pub decay: f64,
    /// Factor on the gradient before all else.
    pub scale: f64,
    /// Updates with this one.
    pub steps: usize,
}

/// One update of `weights`, in place; without momentum there is no velocity.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn sgd_step(team: &mut Team, sgd: &Sgd, weights: &mut [f32], velocity: Option<&mut [f32]>, grad: &[f32]) {
    let [rate, momentum, decay, scale] = [sgd.rate, sgd.momentum, sgd.decay, sgd.scale].map(|x| x as f32);
    let rule = SgdRule { rate, momentum, nesterov: sgd.nesterov, decay, scale };
    match velocity {
        Some(velocity) => step(team, &rule, weights, [velocity], grad),
        None => step(team, &rule, weights, [], grad),
    }
}

/// One update of `weights` and of the running means of the gradient and of its square, in place.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn adamw_step(
    team: &mut Team,
    adamw: &AdamW,
    weights: &mut [f32],
    moments: [&mut [f32]; 2],
    grad: &[f32],
) {
    let AdamW { rate, betas, epsilon, decay, scale, steps } = *adamw;
    let steps = i32::try_from(steps).unwrap_or(i32::MAX);
    let [fix, square_fix] = betas.map(|b| 1.0 - b.powi(steps));
    let rule = AdamWRule {
        rate: (rate / fix) as f32,
        keep: betas.map(|b| b as f32),
        take: betas.map(|b| (1.0 - b) as f32),
        square_fix: square_fix as f32,
        epsilon: epsilon as f32,
        left: (1.0 - rate * decay) as f32,
        scale: scale as f32,
    };
    step(team, &rule, weights, moments, grad);
}

/// `mean = keep mean + (1 - keep) values`, in place.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn average(team: &mut Team, mean: &mut [f32], values: &[f32], keep: f64) {
    step(team, &Mean { keep: keep as f32, take: (1.0 - keep) as f32 }, mean, [], values);
}

/// The sum of the squares, a part at a time in single precision.
pub fn square_sum(team: &mut Team, values: &[f32]) -> f64 {
    let isa = team.isa;
    let mut sums = vec![0.0; values.len().div_ceil(CHUNK)];
    team.chunks(&mut sums, 1, |part, sum| {
        let start = part * CHUNK;
        let values = &values[start..values.len().min(start + CHUNK)];
        sum.copy_from_slice(&[isa.run(Squares(values))]);
    });
    sums.iter().map(|s| f64::from(*s)).sum()
}

/// What becomes of a register of weights and of `N` registers of state with a register of the gradient.
trait Rule<const N: usize>: Sync {
    fn apply<V: Vector>(&self, v: V, w: V::Reg, state: [V::Reg; N], g: V::Reg) -> (V::Reg, [V::Reg; N]);
}

struct SgdRule {
    rate: f32,
    momentum: f32,
    nesterov: bool,
    decay: f32,
    scale: f32,
}

impl Rule<0> for SgdRule {
    #[inline(always)]
    fn apply<V: Vector>(&self, v: V, w: V::Reg, _: [V::Reg; 0], g: V::Reg) -> (V::Reg, [V::Reg; 0]) {
        let g = v.add(v.mul(g, v.splat(self.scale)), v.mul(w, v.splat(self.decay)));
        (v.add(w, v.mul(g, v.splat(-self.rate))), [])
    }
}

impl Rule<1> for SgdRule {
    #[inline(always)]
    fn apply<V: Vector>(&self, v: V, w: V::Reg, [speed]: [V::Reg; 1], g: V::Reg) -> (V::Reg, [V::Reg; 1]) {
        let momentum = v.splat(self.momentum);
        let g = v.add(v.mul(g, v.splat(self.scale)), v.mul(w, v.splat(self.decay)));
        let speed = v.add(v.mul(speed, momentum), g);
        let step = if self.nesterov { v.add(g, v.mul(speed, momentum)) } else { speed };
        (v.add(w, v.mul(step, v.splat(-self.rate))), [speed])
    }
}

struct AdamWRule {
    /// Learning rate over the mean's bias correction.
    rate: f32,
    keep: [f32; 2],
    take: [f32; 2],
    /// Bias correction of the squares' mean.
    square_fix: f32,
    epsilon: f32,
    /// Share of the weights that the decay leaves.
    left: f32,
    scale: f32,
}

impl Rule<2> for AdamWRule {
    #[inline(always)]
    fn apply<V: Vector>(&self, v: V, w: V::Reg, state: [V::Reg; 2], g: V::Reg) -> (V::Reg, [V::Reg; 2]) {
        let g = v.mul(g, v.splat(self.scale));
        let [keep, take] = [self.keep, self.take].map(|pair| pair.map(|x| v.splat(x)));
        let mean = v.add(v.mul(state[0], keep[0]), v.mul(g, take[0]));
        let square = v.add(v.mul(state[1], keep[1]), v.mul(v.mul(g, g), take[1]));
        let root = v.add(v.sqrt(v.div(square, v.splat(self.square_fix))), v.splat(self.epsilon));
        let step = v.div(v.mul(mean, v.splat(-self.rate)), root);
        (v.add(v.mul(w, v.splat(self.left)), step), [mean, square])
    }
}

struct Mean {
    keep: f32,
    take: f32,
}

impl Rule<0> for Mean {
    #[inline(always)]
    fn apply<V: Vector>(&self, v: V, mean: V::Reg, _: [V::Reg; 0], x: V::Reg) -> (V::Reg, [V::Reg; 0]) {
        (v.add(v.mul(mean, v.splat(self.keep)), v.mul(x, v.splat(self.take))), [])
    }
}

fn step<R: Rule<N>, const N: usize>(
    team: &mut Team,
    rule: &R,
    weights: &mut [f32],
    state: [&mut [f32]; N],
    grad: &[f32],
) {
    let (isa, n) = (team.isa, weights.len());
    assert!(grad.len() == n && state.iter().all(|s| s.len() == n), "{n} weights");
    let state = state.map(Raw::of);
    team.chunks(weights, CHUNK, |part, weights| {
        let (start, len) = (part * CHUNK, weights.len());
        // SAFETY: as the weights' chunks, those of the state do not overlap.
        let state = state.map(|s| unsafe { s.slice(start, len) });
        isa.run(Update { rule, weights, state, grad: &grad[start..][..len] });
    });
}

/// A part of an update: all slices have the same length.
struct Update<'a, R, const N: usize> {
    rule: &'a R,
    weights: &'a mut [f32],
    state: [&'a mut [f32]; N],
    grad: &'a [f32],
}

impl<R: Rule<N>, const N: usize> Job for Update<'_, R, N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let n = self.weights.len();
        for i in (0..n).step_by(V::LANES) {
            let lanes = (n - i).min(V::LANES);
            // SAFETY: all slices have `n` values.
            unsafe {
                let w = self.weights.as_mut_ptr().add(i);
                let places = self.state.each_mut().map(|s| s.as_mut_ptr().add(i));
                let state = places.map(|s| v.load_some(s, lanes));
                let g = v.load_some(self.grad.as_ptr().add(i), lanes);
                let (weight, state) = self.rule.apply(v, v.load_some(w, lanes), state, g);
                v.store_some(w, weight, lanes);
                for (place, state) in places.into_iter().zip(state) {
                    v.store_some(place, state, lanes);
                }
            }
        }
    }
}

struct Squares<'a>(&'a [f32]);

impl Job for Squares<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f32 {
        let n = self.0.len();
        let mut sums = [v.splat(0.0); 4];
        for i in (0..n).step_by(V::LANES) {
            // SAFETY: as many values are left.
            let x = unsafe { v.load_some(self.0.as_ptr().add(i), (n - i).min(V::LANES)) };
            let sum = &mut sums[i / V::LANES % 4];
            *sum = v.fma(x, x, *sum);
        }
        let [a, b, c, d] = sums;
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: no register has more lanes.
        unsafe { v.store(lanes.as_mut_ptr(), v.add(v.add(a, b), v.add(c, d))) };
        lanes.iter().sum()
    }
}
