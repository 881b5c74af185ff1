//! Where each buffer lies in the arena: buffers that are never alive at once share memory.

use crate::error::PlanError;

/// Values that a plan's memory may have for one image: 2^40 bytes and more are refused.
pub(crate) const MAX_VALUES: usize = 1 << 38;
/// Buffers start on a cache line: 16 values.
const LINE: usize = 16;

/// One buffer: its size for one image and the steps between which it is alive, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) len: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// The arena of a plan: for a batch of `n` images everything is `n` times as large.
#[derive(Debug)]
pub(crate) struct Layout {
    /// First value of each buffer.
    pub(crate) offsets: Vec<usize>,
    pub(crate) lens: Vec<usize>,
    /// Values of the arena.
    pub(crate) len: usize,
}

impl Layout {
    /// Gives each buffer the lowest place that is free while it is alive: what was used last is used again soonest,
    /// while it is in cache.
    ///
    /// # Errors
    /// If the arena is too large.
    pub(crate) fn new(buffers: &[Lifetime]) -> Result<Self, PlanError> {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&i| (buffers[i].first, std::cmp::Reverse(buffers[i].len)));
        let mut offsets = vec![0; buffers.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut len = 0;
        for index in order {
            let this = buffers[index];
            let size = this.len.next_multiple_of(LINE);
            // Those alive together, by place.
            let mut others: Vec<(usize, usize)> = placed
                .iter()
                .filter(|&&i| buffers[i].first <= this.last && this.first <= buffers[i].last)
                .map(|&i| (offsets[i], buffers[i].len.next_multiple_of(LINE)))
                .collect();
            others.sort_unstable();
            let mut at = 0;
            for (start, other) in others {
                if at + size <= start {
                    break;
                }
                at = at.max(start + other);
            }
            offsets[index] = at;
            placed.push(index);
            len = len.max(at + size);
            if len > MAX_VALUES {
                let (what, values) = ("memory of one image".into(), len as u128);
                return Err(PlanError::TooLarge { what, values, limit: MAX_VALUES });
            }
        }
        Ok(Self { offsets, lens: buffers.iter().map(|b| b.len).collect(), len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_at_once_never_overlap_and_others_share() {
        let life = |len, first, last| Lifetime { len, first, last };
        let buffers: Vec<Lifetime> =
            (0..60).map(|i| life(1 + i * 37 % 101, i, i + 1 + i * 7 % 5)).chain([life(50, 0, 99)]).collect();
        let layout = Layout::new(&buffers).unwrap();
        let total: usize = buffers.iter().map(|b| b.len).sum();
        assert!(layout.len < total / 3, "{} of {total} values", layout.len);
        for (i, a) in buffers.iter().enumerate() {
            assert_eq!(layout.offsets[i] % LINE, 0);
            for (j, b) in buffers.iter().enumerate().take(i) {
                let apart = a.last < b.first || b.last < a.first;
                let [x, y] = [layout.offsets[i], layout.offsets[j]];
                assert!(apart || x + a.len <= y || y + b.len <= x, "buffers {i} and {j}");
            }
        }
    }

    #[test]
    fn an_absurd_size_is_refused() {
        let buffers = [Lifetime { len: MAX_VALUES + 1, first: 0, last: 0 }];
        assert!(matches!(Layout::new(&buffers), Err(PlanError::TooLarge { .. })));
    }
}
