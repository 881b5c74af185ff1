//! The optimizer's updates, each in one pass over the memory, which is what binds them.
//!
//! Products and sums are rounded one by one, as a framework does that makes them one after the other.

use std::marker::PhantomData;

use crate::backward::team::{Raw, Team};
use crate::isa::Isa;
use crate::vector::{Job, MAX_LANES, Vector};

/// Values of a part of the job.
const CHUNK: usize = 1 << 15;

/// Values of a cache line.
const LINE: usize = 16;

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

/// A rule with the weights and the state that it changes.
///
/// It is made from a gradient ([`Self::step`]), or by the kernel that computes the gradient, rows of which are in cache
/// then ([`Goal`](super::Goal)).
pub struct Update<'a> {
    rule: AnyRule,
    weights: Raw,
    state: [Raw; 2],
    /// Values of the weights.
    len: usize,
    own: PhantomData<&'a mut [f32]>,
}

/// What computes the values, and with them how many slices of state there are.
#[derive(Clone, Copy)]
enum AnyRule {
    Sgd(SgdRule),
    Momentum(SgdRule),
    AdamW(AdamWRule),
}

impl<'a> Update<'a> {
    /// SGD of some weights; without momentum there is no velocity.
    ///
    /// # Panics
    /// If the velocity has another length.
    pub fn sgd(sgd: &Sgd, weights: &'a mut [f32], velocity: Option<&'a mut [f32]>) -> Self {
        let [rate, momentum, decay, scale] = [sgd.rate, sgd.momentum, sgd.decay, sgd.scale].map(|x| x as f32);
        let rule = SgdRule { rate, momentum, nesterov: sgd.nesterov, decay, scale };
        match velocity {
            Some(velocity) => Self::new(AnyRule::Momentum(rule), weights, [Some(velocity), None]),
            None => Self::new(AnyRule::Sgd(rule), weights, [None, None]),
        }
    }

    /// AdamW of some weights with the running means of the gradient and of its square.
    ///
    /// # Panics
    /// If these differ in length.
    pub fn adamw(adamw: &AdamW, weights: &'a mut [f32], [mean, square]: [&'a mut [f32]; 2]) -> Self {
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
        Self::new(AnyRule::AdamW(rule), weights, [Some(mean), Some(square)])
    }

    fn new(rule: AnyRule, weights: &'a mut [f32], state: [Option<&'a mut [f32]>; 2]) -> Self {
        let len = weights.len();
        let state = state.map(|state| {
            let state = state.unwrap_or_default();
            assert!(state.is_empty() || state.len() == len, "{} values of state, {len} weights", state.len());
            Raw::of(state)
        });
        Self { rule, weights: Raw::of(weights), state, len, own: PhantomData }
    }

    /// Values of the weights.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The weights as they are, for those who read them before they change.
    pub(super) fn weights(&self) -> *const f32 {
        self.weights.at(0)
    }

    /// Updates the weights.
    ///
    /// # Panics
    /// If the gradient has another length.
    pub fn step(&self, team: &mut Team, grad: &[f32]) {
        assert_eq!(grad.len(), self.len, "gradient of {} weights", self.len);
        let isa = team.isa;
        team.run(self.len.div_ceil(CHUNK), 0, |part, _| {
            let (start, len) = (part * CHUNK, CHUNK.min(self.len - part * CHUNK));
            // SAFETY: this part alone has these weights.
            unsafe { self.apply(isa, start, grad[start..][..len].as_ptr(), len) }
        });
    }

    /// Asks memory for the state of weights `start..start + len`, which need not exist: they will be updated next. The
    /// weights themselves are in cache where a kernel has read them.
    pub(super) fn ask_for(&self, isa: Isa, start: usize, len: usize) {
        let states = match self.rule {
            AnyRule::Sgd(_) => 0,
            AnyRule::Momentum(_) => 1,
            AnyRule::AdamW(_) => 2,
        };
        self.state[..states].iter().for_each(|state| isa.run(Ask { from: state.at(start), len }));
    }

    /// Updates weights `start..start + len` from their gradient.
    ///
    /// # Safety
    /// The weights must exist and be the caller's alone, and the gradient have as many values.
    pub(super) unsafe fn apply(&self, isa: Isa, start: usize, grad: *const f32, len: usize) {
        let weights = self.weights.at(start);
        // SAFETY: the caller's promise.
        unsafe { self.values(isa, start, Values { weights, grad, len }) }
    }

    /// # Safety
    /// `values` and those of the state from `start` on must exist and be the caller's alone.
    unsafe fn values(&self, isa: Isa, start: usize, values: Values) {
        let [a, b] = self.state.map(|s| s.at(start));
        match self.rule {
            AnyRule::Sgd(rule) => isa.run(Step { rule, values, state: [] }),
            AnyRule::Momentum(rule) => isa.run(Step { rule, values, state: [a] }),
            AnyRule::AdamW(rule) => isa.run(Step { rule, values, state: [a, b] }),
        }
    }
}

/// `mean = keep mean + (1 - keep) values`, in place.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn average(team: &mut Team, mean: &mut [f32], values: &[f32], keep: f64) {
    assert_eq!(mean.len(), values.len(), "mean and values");
    let (isa, rule) = (team.isa, Mean { keep: keep as f32, take: (1.0 - keep) as f32 });
    team.chunks(mean, CHUNK, |part, mean| {
        let (len, grad) = (mean.len(), values[part * CHUNK..].as_ptr());
        let values = Values { weights: mean.as_mut_ptr(), grad, len };
        isa.run(Step { rule, values, state: [] });
    });
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
trait Rule<const N: usize>: Copy {
    fn apply<V: Vector>(&self, v: V, w: V::Reg, state: [V::Reg; N], g: V::Reg) -> (V::Reg, [V::Reg; N]);
}

#[derive(Clone, Copy)]
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

#[derive(Clone, Copy)]
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

#[derive(Clone, Copy)]
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

/// Weights and their gradient.
struct Values {
    weights: *mut f32,
    grad: *const f32,
    len: usize,
}

/// A part of an update; there are as many values of state.
struct Step<R, const N: usize> {
    rule: R,
    values: Values,
    state: [*mut f32; N],
}

impl<R: Rule<N>, const N: usize> Job for Step<R, N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Values { weights, grad, len } = self.values;
        for i in (0..len).step_by(V::LANES) {
            let lanes = (len - i).min(V::LANES);
            // SAFETY: all have `len` values.
            unsafe {
                let places = self.state.map(|s| s.add(i));
                let state = places.map(|s| v.load_some(s, lanes));
                let [w, g] = [weights.cast_const(), grad].map(|p| v.load_some(p.add(i), lanes));
                let (weight, state) = self.rule.apply(v, w, state, g);
                v.store_some(weights.add(i), weight, lanes);
                for (place, state) in places.into_iter().zip(state) {
                    v.store_some(place, state, lanes);
                }
            }
        }
    }
}

/// Asks for the cache lines of some values.
struct Ask {
    from: *const f32,
    len: usize,
}

impl Job for Ask {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        (0..self.len).step_by(LINE).for_each(|i| v.prefetch(self.from.wrapping_add(i).cast()));
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
