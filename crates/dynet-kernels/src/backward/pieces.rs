//! How a panel of a dynamic layer is cut, so that its experts are read from memory once and from the first cache for
//! every image.

use std::ops::Range;

/// Rows of a panel that are fused and multiplied before the next ones: 32 KiB, which stay in a first-level cache.
pub(super) const FUSE_ROWS: usize = 256;

/// The same for maps of few pixels, where fusing is most of the work: with K = 4 their experts are 16 KiB, which stay
/// in a first-level cache for all images.
const FEW_FUSE_ROWS: usize = 32;

/// Pixels of such a map.
const FEW_PIXELS: usize = 9;

/// Bytes of a panel's experts that are packed at once: half of a cache of 1 MiB.
const PACKED_BYTES: usize = 1 << 19;

/// How a panel's rows are cut: channels whose experts are packed together, rows that are fused together.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    channels: usize,
    taps: usize,
    packed: usize,
    step: usize,
}

impl Pieces {
    /// Of a panel whose rows have `width` weights of all experts, for maps of `pixels` pixels.
    pub(super) fn new([channels, taps]: [usize; 2], width: usize, pixels: usize) -> Self {
        let all = 4 * channels * taps * width <= PACKED_BYTES;
        // At least 32 channels: the weights of a channel are read from memory in runs of a kilobyte.
        let packed = if all { channels } else { (FUSE_ROWS / taps).max(32).min(channels) };
        let step = if pixels <= FEW_PIXELS { FEW_FUSE_ROWS } else { FUSE_ROWS };
        Self { channels, taps, packed, step }
    }

    /// Rows that are packed together, at most.
    pub(super) fn rows(self) -> usize {
        self.packed * self.taps
    }

    /// First channel and number of channels that are packed together.
    pub(super) fn channels(self) -> impl Iterator<Item = [usize; 2]> {
        let len = move |from| self.packed.min(self.channels - from);
        (0..self.channels).step_by(self.packed).map(move |from| [from, len(from)])
    }

    /// The pieces of taps `taps` of packed channels: their first row among the packed ones, and the values of `k` that
    /// they meet, which count from the first of these taps on.
    pub(super) fn of(self, [from, len]: [usize; 2], taps: Range<usize>) -> impl Iterator<Item = [usize; 3]> {
        // All channels: rows of one tap follow those of the tap before it.
        let (runs, rows) = if len == self.channels { (1, len * taps.len()) } else { (taps.len(), len) };
        (0..runs).flat_map(move |run| {
            let (row, k) = (taps.start * len + run * rows, run * self.channels + from);
            (0..rows).step_by(self.step).map(move |r| [row + r, k + r, k + rows.min(r + self.step)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece() {
        for (channels, taps, width, pixels) in
            [(3, 9, 128, 4), (64, 9, 128, 64), (200, 9, 128, 4), (1000, 1, 128, 1)]
        {
            let pieces = Pieces::new([channels, taps], width, pixels);
            let mut met = vec![0; channels * taps];
            for packed in pieces.channels() {
                let mut end = 0;
                for [row, k0, k1] in [0..taps / 2, taps / 2..taps].into_iter().flat_map(|taps| {
                    let first = taps.start;
                    pieces
                        .of(packed, taps)
                        .map(move |[r, k0, k1]| [r, k0 + first * channels, k1 + first * channels])
                }) {
                    assert!(row == end && k1 - k0 <= FUSE_ROWS, "{channels} x {taps}");
                    end += k1 - k0;
                    met[k0..k1].iter_mut().for_each(|m| *m += 1);
                }
                assert_eq!(end, packed[1] * taps, "{channels} x {taps}");
                assert!(end <= pieces.rows(), "{channels} x {taps}");
            }
            assert!(met.iter().all(|m| *m == 1), "{channels} x {taps}");
        }
    }
}
