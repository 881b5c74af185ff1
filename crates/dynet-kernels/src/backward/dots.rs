//! Few rows times weights as they lie in memory: fully connected layers forward, whose weights are read once.
//!
//! A sum goes along a row of the input and a row of the weights, a register of it at a time, so that nothing is packed.

use crate::backward::dense::Dense;
use crate::backward::team::{Raw, Team};
use crate::vector::{Job, MAX_LANES, Vector};

/// Fewest values of a row: adding up the lanes of a sum costs as much as some 60 of its products.
pub(super) const LONG_ROW: usize = 256;

/// Values of a row that a tile goes through at once: those of its rows and weights stay in the first cache.
const PIECE: usize = 1024;

/// Output channels of a part of the job.
const CHANNELS: usize = 48;

/// Rows of a tile, at most.
const ROWS: usize = 4;

/// Values of a cache line.
const LINE: usize = 16;

/// `out[r][c] = bias[c] + sum_k x[r][k] w[c][k]`.
struct Dots {
    x: *const f32,
    rows: usize,
    weights: *const f32,
    cols: usize,
    k: usize,
    out: *mut f32,
    out_ld: usize,
    /// None where it is null.
    bias: *const f32,
}

impl Job for Dots {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        // 4 x 3 sums, 3 weights and a value of 16 registers, 4 x 6 of 32.
        let most = if V::MR > 6 { 6 } else { 3 };
        let mut c = 0;
        while c < self.cols {
            let cols = if self.cols - c < most { 1 } else { most };
            let bias = if self.bias.is_null() { self.bias } else { self.bias.wrapping_add(c) };
            let mut ahead = self.weights.wrapping_add((c + cols) * self.k);
            // The next columns' weights come while these are multiplied: each tile asks for its share.
            let step = (cols * V::LANES).div_ceil(self.rows.div_ceil(ROWS));
            for from in (0..self.k).step_by(PIECE) {
                let k = PIECE.min(self.k - from);
                for r in (0..self.rows).step_by(ROWS) {
                    let part = Part {
                        x: self.x.wrapping_add(r * self.k + from),
                        weights: self.weights.wrapping_add(c * self.k + from),
                        ld: self.k,
                        k,
                        out: self.out.wrapping_add(r * self.out_ld + c),
                        out_ld: self.out_ld,
                        bias,
                        adds: from > 0,
                        ahead,
                        step,
                    };
                    macro_rules! call {
                        ($($rows:literal)*) => {
                            match ((self.rows - r).min(ROWS), cols) {
                                $(
                                    ($rows, 1) => v.call_apart(Sized::<$rows, 1>(part)),
                                    ($rows, 3) => v.call_apart(Sized::<$rows, 3>(part)),
                                    ($rows, _) => v.call_apart(Sized::<$rows, 6>(part)),
                                )*
                                _ => unreachable!("a tile has at most {ROWS} rows"),
                            }
                        };
                    }
                    call!(1 2 3 4);
                    ahead = ahead.wrapping_add(k.div_ceil(V::LANES) * step);
                }
            }
            c += cols;
        }
    }
}

/// A tile of [`Dots`], from its first row and column on, and `k` of their values.
struct Part {
    x: *const f32,
    weights: *const f32,
    /// From one row or column to the next.
    ld: usize,
    k: usize,
    out: *mut f32,
    out_ld: usize,
    bias: *const f32,
    /// To what is there.
    adds: bool,
    /// What is asked for, and how far that moves with each register.
    ahead: *const f32,
    step: usize,
}

/// With its size known when compiling.
struct Sized<const R: usize, const C: usize>(Part);

impl<const R: usize, const C: usize> Job for Sized<R, C> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        if C > 3 && V::MR <= 6 {
            return;
        }
        let Part { x, weights, ld, k, out, out_ld, bias, adds, ahead, step } = self.0;
        let mut acc = [[v.splat(0.0); C]; R];
        let mut at = 0;
        // SAFETY: `forward_few_rows` answers for `k` values of all rows and columns, and for their outputs.
        unsafe {
            while at + V::LANES <= k {
                for line in (0..step).step_by(LINE) {
                    v.prefetch(ahead.wrapping_add(at / V::LANES * step + line).cast());
                }
                let mut w = [v.splat(0.0); C];
                for (c, w) in w.iter_mut().enumerate() {
                    *w = v.load(weights.add(c * ld + at));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = v.load(x.add(r * ld + at));
                    for (acc, w) in acc.iter_mut().zip(w) {
                        *acc = v.fma(x, w, *acc);
                    }
                }
                at += V::LANES;
            }
            if at < k {
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = v.load_some(x.add(r * ld + at), k - at);
                    for (c, acc) in acc.iter_mut().enumerate() {
                        *acc = v.fma(x, v.load_some(weights.add(c * ld + at), k - at), *acc);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (c, acc) in acc.iter().enumerate() {
                    let out = out.add(r * out_ld + c);
                    let first = match (adds, bias.is_null()) {
                        (true, _) => *out,
                        (false, true) => 0.0,
                        (false, false) => *bias.add(c),
                    };
                    *out = first + sum(v, *acc);
                }
            }
        }
    }
}

/// The sum of all lanes, halves first.
#[inline(always)]
fn sum<V: Vector>(v: V, x: V::Reg) -> f32 {
    let mut lanes = [0.0; MAX_LANES];
    // SAFETY: no register has more lanes.
    unsafe { v.store(lanes.as_mut_ptr(), x) };
    let mut len = V::LANES;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            lanes[i] += lanes[i + len];
        }
    }
    lanes[0]
}

impl Dense<'_> {
    /// [`Dense::forward`] of few rows that meet one element of the kernel.
    pub(super) fn forward_few_rows(&self, team: &mut Team, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let (isa, n, k, rows) = (team.isa, self.c_out, self.c_in, self.window.images * self.window.outputs());
        let out = Raw::of(out);
        team.run(n.div_ceil(CHANNELS), 0, |part, _| {
            let first = part * CHANNELS;
            isa.run(Dots {
                x: x.as_ptr(),
                rows,
                weights: self.weights[first * k..].as_ptr(),
                cols: CHANNELS.min(n - first),
                k,
                out: out.at(first),
                out_ld: n,
                bias: bias.map_or(std::ptr::null(), |b| b[first..].as_ptr()),
            });
        });
    }
}
