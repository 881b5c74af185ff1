//! The exponential function and what is made of it.

use crate::vector::Vector;

/// `e^x`. Is 0 where that is below 2^-100, some `e^-69`; saturates at `e^88`.
///
/// # Accuracy
/// 2 ULP from `e^-53` on, below it 2^-100: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, with `ln 2` in two parts so that `r` is exact to the last bit, then
/// the Taylor polynomial of degree 7, whose next term is below 6e-9.
#[inline(always)]
pub(crate) fn exp<V: Vector>(v: V, x: V::Reg) -> V::Reg {
    // ln 2 = HIGH + LOW; HIGH has 9 significant bits, so `n * HIGH` is exact for the n that occur.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    // 1.5 * 2^23: adding and subtracting it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    // At 2^-126 the exponent ends; 88 keeps 2^127 finite.
    let x = v.min(v.splat(88.0), v.max(v.splat(-87.3), x));
    let n = v.add(v.add(v.mul(x, v.splat(std::f32::consts::LOG2_E)), v.splat(ROUND)), v.splat(-ROUND));
    let r = v.fma(n, v.splat(-HIGH), x);
    let r = v.fma(n, v.splat(-LOW), r);
    let mut p = v.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = v.fma(p, r, v.splat(c));
    }
    flush(v, v.mul(p, v.pow2(n)))
}

/// Zero for what is below 2^-100. A coefficient near 2^-126 would make subnormal numbers of the weights that it is
/// multiplied with, for which some processors take many times as long. Subtracting it leaves values
/// from 2^-76 on as they are.
#[inline(always)]
fn flush<V: Vector>(v: V, x: V::Reg) -> V::Reg {
    // Second argument of `max`: what is not a number stays so.
    const TINY: f32 = f32::from_bits((127 - 100) << 23);
    v.max(v.splat(0.0), v.add(x, v.splat(-TINY)))
}

/// `1 / (1 + e^-x)`; 0 where that is below 2^-100.
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(v: V, x: V::Reg) -> V::Reg {
    let e = exp(v, v.mul(x, v.splat(-1.0)));
    flush(v, v.div(v.splat(1.0), v.add(v.splat(1.0), e)))
}
