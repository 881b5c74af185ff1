//! Element by element: activations, sums, factors of channels, and their gradients.

use crate::activation::Activation;
use crate::backward::team::Team;
use crate::generic::exp::sigmoid;
use crate::vector::{Job, Vector};

/// Values of a part of a job: 64 KiB of each operand.
const CHUNK: usize = 1 << 14;

/// `act'(x)`. Of activations that only clamp it may also be taken at `act(x)`.
#[inline(always)]
pub(super) fn derivative<V: Vector>(v: V, act: Activation, x: V::Reg) -> V::Reg {
    // 1 above zero, 0 at it and below: any normal number times 3e38 is at least 1.
    let step = |x: V::Reg| v.min(v.splat(1.0), v.max(v.splat(0.0), v.mul(x, v.splat(3e38))));
    let below = |limit: f32| step(v.fma(x, v.splat(-1.0), v.splat(limit)));
    let above = |limit: f32| step(v.add(x, v.splat(-limit)));
    match act {
        Activation::None => v.splat(1.0),
        Activation::Relu => step(x),
        Activation::Relu6 => v.mul(step(x), below(6.0)),
        Activation::Hardsigmoid => v.mul(v.mul(above(-3.0), below(3.0)), v.splat(1.0 / 6.0)),
        Activation::Hardswish => {
            // (2 x + 3) / 6 between -3 and 3, 0 below and 1 above.
            let inside = v.fma(x, v.splat(1.0 / 3.0), v.splat(0.5));
            let inside = v.mul(inside, v.mul(above(-3.0), below(3.0)));
            v.add(inside, v.fma(below(3.0), v.splat(-1.0), v.splat(1.0)))
        }
        Activation::Sigmoid => {
            let s = sigmoid(v, x);
            v.mul(s, v.fma(s, v.splat(-1.0), v.splat(1.0)))
        }
    }
}

/// What becomes of the values `a` of one slice and `b` of another.
#[derive(Clone, Copy)]
enum Formula {
    /// `act(a)`.
    Activate(Activation),
    /// `act(a + b)`.
    Add(Activation),
    /// `a act'(b)`.
    Back(Activation),
}

/// `out = formula(a, b)`; where there is no `a` it is what `out` holds.
struct Elements<'a> {
    formula: Formula,
    a: Option<&'a [f32]>,
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Job for Elements<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let n = self.out.len();
        assert!(self.b.len() == n && self.a.is_none_or(|a| a.len() == n), "slices of {n} values");
        let out = self.out.as_mut_ptr();
        let a = self.a.map_or(out.cast_const(), <[f32]>::as_ptr);
        for i in (0..n).step_by(V::LANES) {
            let lanes = (n - i).min(V::LANES);
            // SAFETY: all slices have `n` values.
            unsafe {
                let (a, b) = (v.load_some(a.add(i), lanes), v.load_some(self.b.as_ptr().add(i), lanes));
                let value = match self.formula {
                    Formula::Activate(act) => act.apply(v, b),
                    Formula::Add(act) => act.apply(v, v.add(a, b)),
                    Formula::Back(act) => v.mul(a, derivative(v, act, b)),
                };
                v.store_some(out.add(i), value, lanes);
            }
        }
    }
}

fn elements(team: &mut Team, formula: Formula, a: Option<&[f32]>, b: &[f32], out: &mut [f32]) {
    assert!(b.len() == out.len() && a.is_none_or(|a| a.len() == b.len()), "slices of {} values", out.len());
    let isa = team.isa;
    let part = |s: &[f32], i: usize| i * CHUNK..s.len().min((i + 1) * CHUNK);
    team.chunks(out, CHUNK, |i, out| {
        isa.run(Elements { formula, a: a.map(|a| &a[part(a, i)]), b: &b[part(b, i)], out });
    });
}

/// `y = act(x)`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn activate(team: &mut Team, x: &[f32], act: Activation, y: &mut [f32]) {
    elements(team, Formula::Activate(act), None, x, y);
}

/// `dy *= act'(x)`; where the activation only clamps, `x` may be its result.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn activate_backward(team: &mut Team, x: &[f32], act: Activation, dy: &mut [f32]) {
    elements(team, Formula::Back(act), None, x, dy);
}

/// `y = act(a + b)`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn add(team: &mut Team, [a, b]: [&[f32]; 2], act: Activation, y: &mut [f32]) {
    elements(team, Formula::Add(act), Some(a), b, y);
}

/// `sum += x`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn add_into(team: &mut Team, sum: &mut [f32], x: &[f32]) {
    elements(team, Formula::Add(Activation::None), None, x, sum);
}

/// Sums over the rows of `x [rows][channels]`.
///
/// # Panics
/// If `x` is no multiple of `channels`.
pub fn column_sums(team: &mut Team, x: &[f32], channels: usize) -> Vec<f32> {
    const ROWS: usize = 512;
    assert!(channels > 0 && x.len().is_multiple_of(channels), "rows of {channels}");
    let parts = (x.len() / channels).div_ceil(ROWS);
    let mut sums = vec![0.0; parts * channels];
    team.chunks(&mut sums, channels, |part, sums| {
        for row in x.chunks_exact(channels).skip(part * ROWS).take(ROWS) {
            sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
    });
    let mut total = vec![0.0; channels];
    for part in sums.chunks_exact(channels) {
        total.iter_mut().zip(part).for_each(|(t, x)| *t += x);
    }
    total
}

/// `y = x * factors`, a factor for each channel of each image: the end of squeeze-and-excitation.
///
/// # Shapes
/// `x`, `y` `[images][pixels][channels]`, `factors [images][channels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn scale(team: &mut Team, x: &[f32], factors: &[f32], channels: usize, y: &mut [f32]) {
    let image = image_len(x, factors, channels);
    assert_eq!(x.len(), y.len(), "factors change no size");
    team.chunks(y, image, |i, y| {
        let factors = &factors[i * channels..][..channels];
        for (x, y) in x[i * image..].chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            for ((y, x), f) in y.iter_mut().zip(x).zip(factors) {
                *y = x * f;
            }
        }
    });
}

/// Turns the gradient of [`scale`]'s output into that of `x`, and writes that of the factors.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn scale_backward(
    team: &mut Team,
    x: &[f32],
    factors: &[f32],
    channels: usize,
    dy: &mut [f32],
    d_factors: &mut [f32],
) {
    let image = image_len(x, factors, channels);
    assert_eq!((x.len(), factors.len()), (dy.len(), d_factors.len()), "gradients of the same sizes");
    team.chunks2([dy, d_factors], [image, channels], |i, [dy, d_factors]| {
        let factors = &factors[i * channels..][..channels];
        d_factors.fill(0.0);
        for (x, dy) in x[i * image..].chunks_exact(channels).zip(dy.chunks_exact_mut(channels)) {
            for (((d, x), f), sum) in dy.iter_mut().zip(x).zip(factors).zip(&mut *d_factors) {
                *sum += *d * x;
                *d *= f;
            }
        }
    });
}

/// Values of an image.
fn image_len(x: &[f32], factors: &[f32], channels: usize) -> usize {
    let images = factors.len() / channels.max(1);
    let whole = images > 0 && factors.len() == images * channels && x.len().is_multiple_of(factors.len());
    assert!(whole, "{} values with {} factors of {channels} channels", x.len(), factors.len());
    x.len() / images
}
