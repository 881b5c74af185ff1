//! Element-wise nonlinearities, in registers before a result is stored.

use crate::generic::exp::sigmoid;
use crate::vector::Vector;

/// An element-wise nonlinearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * relu6(x + 3) / 6`.
    Hardswish,
    /// `relu6(x + 3) / 6`.
    Hardsigmoid,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Relu, Self::Relu6, Self::Hardswish, Self::Hardsigmoid, Self::Sigmoid];

    /// Bounds of the activations that only clamp.
    pub(crate) fn bounds(self) -> Option<[f32; 2]> {
        match self {
            Self::None => Some([f32::NEG_INFINITY, f32::INFINITY]),
            Self::Relu => Some([0.0, f32::INFINITY]),
            Self::Relu6 => Some([0.0, 6.0]),
            Self::Hardswish | Self::Hardsigmoid | Self::Sigmoid => None,
        }
    }

    /// Applies it to a register. Not a number stays so: `min` and `max` return their second argument then.
    #[inline(always)]
    pub(crate) fn apply<V: Vector>(self, v: V, x: V::Reg) -> V::Reg {
        let clamp = |x, lo, hi| v.min(v.splat(hi), v.max(v.splat(lo), x));
        let gate = |x| v.mul(clamp(v.add(x, v.splat(3.0)), 0.0, 6.0), v.splat(1.0 / 6.0));
        match self {
            Self::None => x,
            Self::Relu => v.max(v.splat(0.0), x),
            Self::Relu6 => clamp(x, 0.0, 6.0),
            Self::Hardswish => v.mul(x, gate(x)),
            Self::Hardsigmoid => gate(x),
            Self::Sigmoid => sigmoid(v, x),
        }
    }
}
