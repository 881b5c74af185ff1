//! How a sliding window's inputs come into the lanes of their output channels.

use crate::vector::{MAX_LANES, Vector};

/// Inputs of a group for which permutations are kept ready.
pub(crate) const MAX_INPUTS: usize = 16;

/// How the lanes of an input register come about.
pub(crate) trait Fetch<V: Vector> {
    /// Whether a group has one input.
    const ONE_INPUT: bool = false;
    /// Whether all lanes have a channel, known when compiling.
    const WHOLE: bool = false;

    /// Lane `l`: input `i` of the group of output channel `l`.
    ///
    /// # Safety
    /// `pixel` must be a pixel of the input.
    unsafe fn fetch(&self, v: V, pixel: *const f32, i: usize) -> V::Reg;

    /// The weights of the lanes in a row of a panel, of which more may not follow.
    ///
    /// # Safety
    /// The row must exist from `row` on for the lanes that have a channel, for whole registers where those are cut so.
    #[inline(always)]
    unsafe fn weights(&self, v: V, row: *const f32) -> V::Reg {
        // SAFETY: panels are whole registers wide.
        unsafe { v.load(row) }
    }
}

/// Depthwise: lane `l` is channel `channel + l`; `WHOLE` for all lanes.
pub(crate) struct Straight<const WHOLE: bool> {
    pub(crate) channel: usize,
    pub(crate) lanes: usize,
}

impl<V: Vector, const WHOLE: bool> Fetch<V> for Straight<WHOLE> {
    const ONE_INPUT: bool = true;
    const WHOLE: bool = WHOLE;

    #[inline(always)]
    unsafe fn fetch(&self, v: V, pixel: *const f32, _: usize) -> V::Reg {
        // SAFETY: the pixel has `lanes` channels from `channel` on.
        unsafe {
            let p = pixel.wrapping_add(self.channel);
            if WHOLE { v.load(p) } else { v.load_some(p, self.lanes) }
        }
    }
}

/// Lanes picked from the `2 * LANES` channels from `channel` on, of which `lanes` exist.
pub(crate) struct Permuted<V: Vector> {
    pub(crate) channel: usize,
    pub(crate) lanes: usize,
    pub(crate) index: [V::Index; MAX_INPUTS],
}

impl<V: Vector> Fetch<V> for Permuted<V> {
    #[inline(always)]
    unsafe fn fetch(&self, v: V, pixel: *const f32, i: usize) -> V::Reg {
        let high = self.lanes.saturating_sub(V::LANES);
        // SAFETY: the pixel has `lanes` channels from `channel` on; where none are left the address is not used.
        unsafe {
            let at = pixel.wrapping_add(self.channel);
            let low = v.load_some(at, self.lanes);
            v.permute(low, v.load_some(at.wrapping_add(V::LANES), high), self.index[i])
        }
    }
}

/// Lanes from anywhere, one by one, for groups that are too wide for a permutation of two registers.
pub(crate) struct Gathered {
    /// Input 0 of each lane's group.
    pub(crate) channels: [usize; MAX_LANES],
}

impl<V: Vector> Fetch<V> for Gathered {
    #[inline(always)]
    unsafe fn fetch(&self, v: V, pixel: *const f32, i: usize) -> V::Reg {
        let mut lanes = [0.0; MAX_LANES];
        for (lane, channel) in lanes.iter_mut().zip(self.channels) {
            // SAFETY: the pixel has all these channels.
            *lane = unsafe { *pixel.wrapping_add(channel + i) };
        }
        // SAFETY: a register has at most `MAX_LANES` lanes.
        unsafe { v.load(lanes.as_ptr()) }
    }
}

/// All lanes belong to one group, wherever in a panel it lies.
pub(crate) struct Broadcast {
    /// Input 0 of the group.
    pub(crate) channel: usize,
    /// Output channels of it.
    pub(crate) lanes: usize,
}

impl<V: Vector> Fetch<V> for Broadcast {
    #[inline(always)]
    unsafe fn fetch(&self, v: V, pixel: *const f32, i: usize) -> V::Reg {
        // SAFETY: the pixel has all inputs of the group.
        v.splat(unsafe { *pixel.wrapping_add(self.channel + i) })
    }

    #[inline(always)]
    unsafe fn weights(&self, v: V, row: *const f32) -> V::Reg {
        // SAFETY: the row has the group's output channels.
        unsafe { v.load_some(row, self.lanes) }
    }
}
