//! Batch normalisation by the batch's statistics with the activation behind it, forward and backward.

use crate::activation::Activation;
use crate::backward::pointwise::derivative;
use crate::backward::team::Team;
use crate::vector::{Job, Vector};

/// Rows whose sums are made in f32; sums of rows are added up in f64.
const ROWS: usize = 512;
/// Registers of channels that go over the rows together.
const WIDE: usize = 4;

/// What a normalisation's backward pass needs besides its input.
#[derive(Clone, Debug, Default)]
pub struct NormState {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Biased variance of each channel.
    pub var: Vec<f32>,
    /// `1 / sqrt(var + eps)`.
    inverse: Vec<f32>,
    /// `y = act(scale x + shift)`.
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// `y = act((x - mean) / sqrt(var + eps) * weight + bias)` with the batch's biased variance, channel by channel.
///
/// # Shapes
/// `x`, `y` `[rows][channels]`, `weight` and `bias` `[channels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn norm(
    team: &mut Team,
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    eps: f64,
    act: Activation,
    y: &mut [f32],
) -> NormState {
    let (c, isa) = (weight.len(), team.isa);
    assert!(c > 0 && x.len() == y.len() && x.len().is_multiple_of(c) && bias.len() == c, "{c} channels");
    let rows = x.len() / c;
    // Sums of differences to the first row: what is squared is as small as the spread.
    let parts = rows.div_ceil(ROWS);
    let mut sums = vec![0.0; parts * 2 * c];
    team.chunks(&mut sums, 2 * c, |part, sums| {
        let x = chunk(x, part, c);
        isa.run(Moments { x, c, sums });
    });
    let (mean, var) = statistics(&sums, x, c, rows);
    let inverse: Vec<f32> = var.iter().map(|v| (1.0 / (v + eps).sqrt()) as f32).collect();
    let scale: Vec<f32> = weight.iter().zip(&inverse).map(|(w, i)| w * i).collect();
    let mean: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
    let shift: Vec<f32> = bias.iter().zip(&scale).zip(&mean).map(|((b, s), m)| b - s * m).collect();
    team.chunks(y, ROWS * c, |part, y| {
        isa.run(Affine { x: chunk(x, part, c), scale: &scale, shift: &shift, act, y });
    });
    let var = var.iter().map(|v| *v as f32).collect();
    NormState { mean, var, inverse, scale, shift }
}

/// Turns the gradient of [`norm`]'s output into that of its input; returns those of `weight` and `bias`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn norm_backward(
    team: &mut Team,
    x: &[f32],
    state: &NormState,
    act: Activation,
    dy: &mut [f32],
) -> [Vec<f32>; 2] {
    let (c, isa) = (state.mean.len(), team.isa);
    assert!(c > 0 && x.len() == dy.len() && x.len().is_multiple_of(c), "{c} channels");
    let rows = x.len() / c;
    let mut sums = vec![0.0; rows.div_ceil(ROWS) * 2 * c];
    team.chunks2([dy, &mut sums], [ROWS * c, 2 * c], |part, [dy, sums]| {
        isa.run(GradientSums { x: chunk(x, part, c), dy, state, act, sums });
    });
    let total = total(&sums, 2 * c);
    let (d_bias, d_weight) = total.split_at(c);
    // dx = scale (d - mean(d) - x^ mean(d x^)), with x^ = (x - mean) inverse: linear in d and x.
    let count = rows as f64;
    let of = |i: usize| {
        let (scale, inverse) = (f64::from(state.scale[i]), f64::from(state.inverse[i]));
        let slope = -scale * inverse * d_weight[i] / count;
        let constant = -scale * d_bias[i] / count - slope * f64::from(state.mean[i]);
        [slope as f32, constant as f32]
    };
    let (slope, constant): (Vec<f32>, Vec<f32>) = (0..c).map(of).map(|[s, t]| (s, t)).unzip();
    team.chunks(dy, ROWS * c, |part, dy| {
        let x = chunk(x, part, c);
        isa.run(Gradient { x, dy, scale: &state.scale, slope: &slope, constant: &constant });
    });
    [d_weight, d_bias].map(|d| d.iter().map(|x| *x as f32).collect())
}

fn chunk(x: &[f32], part: usize, c: usize) -> &[f32] {
    let start = part * ROWS * c;
    &x[start..x.len().min(start + ROWS * c)]
}

fn total(sums: &[f32], len: usize) -> Vec<f64> {
    let mut total = vec![0.0; len];
    for part in sums.chunks_exact(len) {
        total.iter_mut().zip(part).for_each(|(t, x)| *t += f64::from(*x));
    }
    total
}

/// Mean and biased variance from each part's sums of `x - x0` and of its square, `x0` the part's first row
/// (Chan, Golub and LeVeque, 1979).
fn statistics(sums: &[f32], x: &[f32], c: usize, rows: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut mean, mut square) = (vec![0.0; c], vec![0.0; c]);
    let mut seen = 0.0;
    for (part, sums) in sums.chunks_exact(2 * c).enumerate() {
        let count = ROWS.min(rows - part * ROWS) as f64;
        for i in 0..c {
            let (sum, squares) = (f64::from(sums[i]), f64::from(sums[c + i]));
            let own = f64::from(x[part * ROWS * c + i]) + sum / count;
            let spread = squares - sum * sum / count;
            let apart = own - mean[i];
            mean[i] += apart * count / (seen + count);
            square[i] += spread + apart * apart * seen * count / (seen + count);
        }
        seen += count;
    }
    let var = square.iter().map(|s| (s / seen).max(0.0)).collect();
    (mean, var)
}

/// The first `lanes` values of a register; a whole one without its mask, which AVX2 reads from memory. Backward, where a
/// row is read and written in one loop, masks cost less than the branch.
///
/// # Safety
/// The values must exist.
#[inline(always)]
unsafe fn load<V: Vector>(v: V, p: *const f32, lanes: usize) -> V::Reg {
    // SAFETY: the caller's promise.
    unsafe { if lanes == V::LANES { v.load(p) } else { v.load_some(p, lanes) } }
}

/// Sums of `x - x0` and of their squares over rows, `x0` the first row.
struct Moments<'a> {
    x: &'a [f32],
    c: usize,
    sums: &'a mut [f32],
}

/// The rows of `x` from channel `c0` on, `WIDE` registers at once: `each(offset of the value, lanes, register)`.
#[inline(always)]
fn columns<V: Vector>(c: usize, mut each: impl FnMut(usize, [usize; WIDE], usize)) {
    for c0 in (0..c).step_by(WIDE * V::LANES) {
        let lanes = std::array::from_fn(|j| (c - c0).saturating_sub(j * V::LANES).min(V::LANES));
        each(c0, lanes, (c - c0).div_ceil(V::LANES).min(WIDE));
    }
}

impl Job for Moments<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { x, c, sums } = self;
        columns::<V>(c, |c0, lanes, _| {
            let at = |p: *const f32, j: usize| p.wrapping_add(c0 + j * V::LANES);
            // SAFETY: `lanes[j]` channels of each row from `c0 + j * LANES` on; `sums` has two values a channel.
            unsafe {
                let first: [V::Reg; WIDE] =
                    std::array::from_fn(|j| v.mul(v.splat(-1.0), load(v, at(x.as_ptr(), j), lanes[j])));
                let mut acc = [[v.splat(0.0); WIDE]; 2];
                for row in x.chunks_exact(c) {
                    for j in 0..WIDE {
                        let d = v.add(load(v, at(row.as_ptr(), j), lanes[j]), first[j]);
                        acc[0][j] = v.add(acc[0][j], d);
                        acc[1][j] = v.fma(d, d, acc[1][j]);
                    }
                }
                for j in 0..WIDE {
                    v.store_some(at(sums.as_ptr(), j).cast_mut(), acc[0][j], lanes[j]);
                    v.store_some(at(sums.as_ptr(), j).wrapping_add(c).cast_mut(), acc[1][j], lanes[j]);
                }
            }
        });
    }
}

/// `y = act(scale x + shift)`.
struct Affine<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    act: Activation,
    y: &'a mut [f32],
}

impl Job for Affine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let c = self.scale.len();
        for (x, y) in self.x.chunks_exact(c).zip(self.y.chunks_exact_mut(c)) {
            for c0 in (0..c).step_by(V::LANES) {
                let lanes = (c - c0).min(V::LANES);
                // SAFETY: all four have `lanes` values from `c0` on.
                unsafe {
                    let [x, scale, shift] =
                        [x, self.scale, self.shift].map(|s| load(v, s.as_ptr().add(c0), lanes));
                    let value = self.act.apply(v, v.fma(x, scale, shift));
                    v.store_some(y.as_mut_ptr().add(c0), value, lanes);
                }
            }
        }
    }
}

/// `d = dy act'(scale x + shift)`, stored in place of `dy`; the sums of `d` and `d x^`.
struct GradientSums<'a> {
    x: &'a [f32],
    dy: &'a mut [f32],
    state: &'a NormState,
    act: Activation,
    sums: &'a mut [f32],
}

impl Job for GradientSums<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { x, dy, state, act, sums } = self;
        let c = state.mean.len();
        let sums = sums.as_mut_ptr();
        columns::<V>(c, |c0, lanes, count| {
            let at = |p: *const f32, j: usize| p.wrapping_add(c0 + j * V::LANES);
            // SAFETY: as in `Moments`; `dy` has the rows of `x`.
            unsafe {
                for (j, &lanes) in lanes.iter().enumerate().take(count) {
                    let [mean, inverse, scale, shift] =
                        [&state.mean, &state.inverse, &state.scale, &state.shift]
                            .map(|s| v.load_some(at(s.as_ptr(), j), lanes));
                    let back = v.mul(v.mul(mean, inverse), v.splat(-1.0));
                    let mut acc = [v.splat(0.0); 2];
                    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact_mut(c)) {
                        let x = v.load_some(at(x.as_ptr(), j), lanes);
                        let place = dy.as_mut_ptr().wrapping_add(c0 + j * V::LANES);
                        let d = v.load_some(place, lanes);
                        let d = match act {
                            Activation::None => d,
                            _ => {
                                let d = v.mul(d, derivative(v, act, v.fma(x, scale, shift)));
                                v.store_some(place, d, lanes);
                                d
                            }
                        };
                        acc[0] = v.add(acc[0], d);
                        acc[1] = v.fma(d, v.fma(x, inverse, back), acc[1]);
                    }
                    v.store_some(sums.add(c0 + j * V::LANES), acc[0], lanes);
                    v.store_some(sums.add(c + c0 + j * V::LANES), acc[1], lanes);
                }
            }
        });
    }
}

/// `dx = scale d + slope x + constant`, in place of `d`.
struct Gradient<'a> {
    x: &'a [f32],
    dy: &'a mut [f32],
    scale: &'a [f32],
    slope: &'a [f32],
    constant: &'a [f32],
}

impl Job for Gradient<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let c = self.scale.len();
        for (x, dy) in self.x.chunks_exact(c).zip(self.dy.chunks_exact_mut(c)) {
            for c0 in (0..c).step_by(V::LANES) {
                let lanes = (c - c0).min(V::LANES);
                // SAFETY: all have `lanes` values from `c0` on.
                unsafe {
                    let [x, scale, slope, constant] = [x, self.scale, self.slope, self.constant]
                        .map(|s| v.load_some(s.as_ptr().add(c0), lanes));
                    let place = dy.as_mut_ptr().add(c0);
                    let d = v.load_some(place, lanes);
                    v.store_some(place, v.fma(d, scale, v.fma(x, slope, constant)), lanes);
                }
            }
        }
    }
}
