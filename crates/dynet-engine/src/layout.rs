//! Where each buffer lies in the arena: buffers that are never alive at once share memory.

use crate::error::PlanError;

/// Values that a plan's memory may have for one image: 2^40 bytes and more are refused.
pub(crate) const MAX_VALUES: usize = 1 << 38;
/// Buffers start on a cache line: 16 values.
const LINE: usize = 16;
/// Maps of 1.5 MiB and more, which no core keeps in its second-level cache beside others.
const LARGE: usize = 384 << 10;
/// Most values of an arena in which they have a place of their own, 8 MiB.
const APART: usize = 2 << 20;

/// One buffer: its size for one image and the steps between which it is alive, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) len: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
    /// The buffer of the same size that it takes the place of, whose last step is its first one.
    pub(crate) within: Option<usize>,
}

impl Lifetime {
    /// A buffer that no step has written yet.
    pub(crate) fn new(len: usize) -> Self {
        Self { len, first: usize::MAX, last: 0, within: None }
    }
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
    /// As [`Layout::new`] for several threads: large buffers share a place with those of the same size alone, if the arena is small
    /// all the same. Lines that another core wrote last, in a map that was cut elsewhere, take longest to write: mobilenet_v2
    /// took 7 % longer with two threads when its two largest maps lay where later ones do.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub(crate) fn for_threads(buffers: &[Lifetime]) -> Result<Self, PlanError> {
        match Self::placed(buffers, LARGE) {
            Ok(apart) if apart.len <= APART => Ok(apart),
            _ => Self::new(buffers),
        }
    }

    /// Gives each buffer the place of the last one before it that was as large, or else the lowest one, of those that are free while it
    /// is alive: what was used last is used again soonest, while it is in cache, and each thread writes the part of it that it wrote
    /// before.
    ///
    /// # Errors
    /// If the arena is too large.
    pub(crate) fn new(buffers: &[Lifetime]) -> Result<Self, PlanError> {
        Self::placed(buffers, usize::MAX)
    }

    /// [`Layout::new`]; buffers from `large` values on share their place with those of the same size alone.
    fn placed(buffers: &[Lifetime], large: usize) -> Result<Self, PlanError> {
        let lens = buffers.iter().map(|b| b.len).collect();
        let owners = owners(buffers);
        let buffers = joined(buffers, &owners);
        let mut order: Vec<usize> = (0..buffers.len()).filter(|&i| owners[i] == i).collect();
        order.sort_by_key(|&i| (buffers[i].first, std::cmp::Reverse(buffers[i].len)));
        let mut offsets = vec![0; buffers.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut len = 0;
        for index in order {
            let this = buffers[index];
            let size = this.len.next_multiple_of(LINE);
            // Those alive together or kept apart, by place.
            let apart = |other: usize| other != this.len && other.max(this.len) >= large && other > 0;
            let mut others: Vec<(usize, usize)> = placed
                .iter()
                .filter(|&&i| {
                    let together = buffers[i].first <= this.last && this.first <= buffers[i].last;
                    together || apart(buffers[i].len)
                })
                .map(|&i| (offsets[i], buffers[i].len.next_multiple_of(LINE)))
                .collect();
            others.sort_unstable();
            let is_free =
                |at: usize| others.iter().all(|&(start, len)| at + size <= start || start + len <= at);
            let as_large = placed.iter().filter(|&&i| buffers[i].len == this.len && is_free(offsets[i]));
            let at = match as_large.max_by_key(|&&i| buffers[i].last) {
                Some(&before) => offsets[before],
                None => lowest(&others, size),
            };
            offsets[index] = at;
            placed.push(index);
            len = len.max(at + size);
            if len > MAX_VALUES {
                let (what, values) = ("memory of one image".into(), len as u128);
                return Err(PlanError::TooLarge { what, values, limit: MAX_VALUES });
            }
        }
        let offsets = owners.iter().map(|&owner| offsets[owner]).collect();
        Ok(Self { offsets, lens, len })
    }
}

/// The first place of `size` values beside those that are taken, by place.
fn lowest(taken: &[(usize, usize)], size: usize) -> usize {
    let mut at = 0;
    for &(start, len) in taken {
        if at + size <= start {
            break;
        }
        at = at.max(start + len);
    }
    at
}

/// For each buffer the first one in its place.
fn owners(buffers: &[Lifetime]) -> Vec<usize> {
    let owner = |i: usize| std::iter::successors(Some(i), |&i| buffers[i].within).last().unwrap_or(i);
    (0..buffers.len()).map(owner).collect()
}

/// The buffers, of which the first one in a place is alive as long as any in it.
fn joined(buffers: &[Lifetime], owners: &[usize]) -> Vec<Lifetime> {
    let mut joined = buffers.to_vec();
    for (&owner, b) in owners.iter().zip(buffers) {
        let all = &mut joined[owner];
        // One of no length is not alive.
        match (all.len, b.len) {
            (_, 0) => {}
            (0, _) => *all = *b,
            _ => *all = Lifetime { first: all.first.min(b.first), last: all.last.max(b.last), ..*all },
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_at_once_never_overlap_and_others_share() {
        let life = |len, first, last| Lifetime { first, last, ..Lifetime::new(len) };
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
    fn large_maps_share_their_place_with_their_like_where_there_is_room() {
        let life = |len, first, last| Lifetime { first, last, ..Lifetime::new(len) };
        let mut buffers = [life(LARGE, 0, 1), life(64, 2, 3), life(LARGE, 4, 5), life(LARGE + 16, 6, 7)];
        assert_eq!(Layout::new(&buffers).unwrap().offsets, [0; 4]);
        let apart = Layout::for_threads(&buffers).unwrap();
        assert_eq!(apart.offsets, [0, LARGE, 0, LARGE + 64]);
        // No more memory than there may be.
        buffers[3].len = APART;
        assert_eq!(Layout::for_threads(&buffers).unwrap().offsets, [0; 4]);
        buffers[3].len = MAX_VALUES - 64;
        assert_eq!(Layout::for_threads(&buffers).unwrap().offsets, [0; 4]);
    }

    #[test]
    fn a_buffer_in_the_place_of_another_lies_there_and_keeps_it_taken() {
        let life = |first, last, within| Lifetime { first, last, within, ..Lifetime::new(16) };
        // Two take the place of buffer 0 in turn; buffer 3 is alive with the last of them alone.
        let mut buffers = [life(0, 1, None), life(1, 3, Some(0)), life(3, 5, Some(1)), life(4, 6, None)];
        let layout = Layout::new(&buffers).unwrap();
        assert_eq!((&layout.offsets[..], layout.len), (&[0, 0, 0, 16][..], 32));
        assert_eq!(layout.lens, [16; 4]);
        // Behind a cut the first ones are not alive.
        buffers[0].len = 0;
        buffers[1].len = 0;
        let layout = Layout::new(&buffers).unwrap();
        assert!(layout.offsets[2] != layout.offsets[3] && layout.len == 32, "{layout:?}");
    }

    #[test]
    fn an_absurd_size_is_refused() {
        let buffers = [Lifetime { first: 0, ..Lifetime::new(MAX_VALUES + 1) }];
        assert!(matches!(Layout::new(&buffers), Err(PlanError::TooLarge { .. })));
    }
}
