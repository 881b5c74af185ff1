//! Packed weights: the fixed kernels of a layer in the order in which fusing and multiplying read them.

use crate::bf16;
use crate::buffer::Buffer;
use crate::isa::Isa;
use crate::shared::Tile;

/// Number format in which fixed kernels are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Storage {
    /// As given.
    #[default]
    F32,
    /// The upper half of f32, rounded to nearest, ties to even.
    Bf16,
    /// `round(w / scale)` in `-127..=127`, one scale for each output channel of each fixed kernel.
    Int8,
}

/// Sizes of unpacked weights `[experts][c_out][c_in][taps]`; `c_in` counts the inputs of one group.
///
/// A fully connected layer has one tap; a depthwise convolution `c_in = 1`; a static layer one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelShape {
    /// Fixed kernels per output channel: K.
    pub experts: usize,
    /// Output channels.
    pub c_out: usize,
    /// Input channels that an output channel reads.
    pub c_in: usize,
    /// Elements of the window: `kh * kw`.
    pub taps: usize,
}

impl KernelShape {
    /// Weights that one output channel reads of one fixed kernel.
    pub fn k(&self) -> usize {
        self.c_in * self.taps
    }

    /// Number of weights; `None` where it overflows.
    pub fn len(&self) -> Option<usize> {
        self.experts.checked_mul(self.c_out)?.checked_mul(self.c_in)?.checked_mul(self.taps)
    }

    /// Whether there is no weight.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// The packed weights themselves.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    F32(Buffer<f32>),
    /// Row of a panel: word `l` holds channel `l` in its low and channel `l + lanes` in its high half.
    Bf16(Buffer<u16>),
    /// With the scales `[experts][n]`.
    Int8(Buffer<i8>, Vec<f32>),
    /// For products of bfloat16, one expert: `[panel][segment][step][16][nr][2]`, as `bf16.rs` has it; a step is 32 values of
    /// a segment of so many, zeros behind its end.
    Pairs(Buffer<u16>, usize),
}

/// Weights packed for an instruction set: `[panel][k][expert][nr]`.
///
/// A panel is a block of `nr` output channels ([`Isa::nr`]), the last one filled up with zeros; `k` runs over
/// `[tap][c_in]`. Fusing a panel reads one stream from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Panels {
    pub(crate) data: Data,
    experts: usize,
    k: usize,
    n: usize,
    nr: usize,
}

impl Panels {
    /// Packs weights `[experts][c_out][c_in][taps]`.
    ///
    /// # Panics
    /// If `weights` has another length than the shape.
    pub fn pack(isa: Isa, storage: Storage, shape: KernelShape, weights: &[f32]) -> Self {
        assert_eq!(Some(weights.len()), shape.len(), "weights of {shape:?}");
        let (n, k, nr, experts) = (shape.c_out, shape.k(), isa.nr(), shape.experts);
        let source = |e: usize, c: usize, row: usize| {
            let (tap, i) = (row / shape.c_in, row % shape.c_in);
            weights[((e * n + c) * shape.c_in + i) * shape.taps + tap]
        };
        Self::pack_with(storage, [experts, n, k, nr], source)
    }

    /// Packs weights of a static convolution, `[c_out][c_in][taps]`, for [`conv_bf16`](crate::conv_bf16), rounded to bfloat16.
    /// `segments` is the number of pieces in which a row of the product is read: 1 for 1x1 kernels, else [`Taps::segments`](crate::Taps::segments).
    ///
    /// # Panics
    /// If `weights` has another length than the shape, which has one expert, or `k` is no multiple of `segments`.
    pub fn pack_bf16(isa: Isa, shape: KernelShape, segments: usize, weights: &[f32]) -> Self {
        let (n, k, nr) = (shape.c_out, shape.k(), isa.nr());
        assert!(shape.experts == 1 && k.is_multiple_of(segments), "{shape:?} in {segments} segments");
        assert_eq!(Some(weights.len()), shape.len(), "weights of {shape:?}");
        let segment = k / segments;
        let (rows, padded) = (bf16::rows(k, segment), bf16::rows(segment, segment));
        let mut packed = Buffer::zeroed_together(n.div_ceil(nr) * rows * nr);
        for c in 0..n {
            for row in 0..k {
                let to = c / nr * rows + row / segment * padded + row % segment;
                let w = weights[(c * shape.c_in + row % shape.c_in) * shape.taps + row / shape.c_in];
                packed[(to / 2 * nr + c % nr) * 2 + to % 2] = round_bf16(w);
            }
        }
        Self { data: Data::Pairs(packed, segment), experts: 1, k, n, nr }
    }

    /// One past the last output channel of a tile.
    ///
    /// # Panics
    /// If the panels are of another instruction set, or the tile begins within a panel or has more channels than they.
    pub(crate) fn check_tile(&self, isa: Isa, out: &Tile<'_>) -> usize {
        assert_eq!(self.nr(), isa.nr(), "weights are packed for panels of another width than {isa} has");
        assert_eq!(out.channel0() % self.nr(), 0, "a tile starts within a panel");
        let end = out.channel0() + out.channels();
        assert!(end <= self.n(), "output channels up to {end}, weights have {}", self.n());
        end
    }

    /// Packs `source(expert, channel, row of the panel)`; sizes are `[experts, n, k, nr]`.
    pub(crate) fn pack_with(
        storage: Storage,
        [experts, n, k, nr]: [usize; 4],
        source: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let len = n.div_ceil(nr) * k * experts * nr;
        let each = |put: &mut dyn FnMut(usize, usize, usize, f32)| {
            for c in 0..n {
                let (panel, lane) = (c / nr, c % nr);
                for row in 0..k {
                    for e in 0..experts {
                        put(((panel * k + row) * experts + e) * nr, lane, e * n + c, source(e, c, row));
                    }
                }
            }
        };
        let data = match storage {
            Storage::F32 => {
                let mut packed = Buffer::zeroed_together(len);
                each(&mut |row, lane, _, w| packed[row + lane] = w);
                Data::F32(packed)
            }
            Storage::Bf16 => {
                let mut packed = Buffer::zeroed_together(len);
                each(&mut |row, lane, _, w| packed[row + word(lane, nr)] = round_bf16(w));
                Data::Bf16(packed)
            }
            Storage::Int8 => {
                let mut scale = vec![0.0_f32; experts * n];
                each(&mut |_, _, c, w| scale[c] = scale[c].max(w.abs() / 127.0));
                let mut packed = Buffer::zeroed_together(len);
                each(&mut |row, lane, c, w| {
                    packed[row + lane] = if scale[c] > 0.0 { (w / scale[c]).round() as i8 } else { 0 }
                });
                Data::Int8(packed, scale)
            }
        };
        Self { data, experts, k, n, nr }
    }

    /// Number format.
    pub fn storage(&self) -> Storage {
        match self.data {
            Data::F32(_) => Storage::F32,
            Data::Bf16(_) | Data::Pairs(..) => Storage::Bf16,
            Data::Int8(..) => Storage::Int8,
        }
    }

    /// Fixed kernels per output channel.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Rows of a panel.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Output channels of a panel.
    pub fn nr(&self) -> usize {
        self.nr
    }

    /// Panels.
    pub fn count(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    /// Bytes of a stored weight.
    pub(crate) fn value_bytes(&self) -> usize {
        match &self.data {
            Data::F32(_) => 4,
            Data::Bf16(_) | Data::Pairs(..) => 2,
            Data::Int8(..) => 1,
        }
    }

    /// Where rows of a panel (as they are laid out) lie, all experts of them: first byte and one past the last.
    pub(crate) fn bytes(&self, panel: usize, [from, to]: [usize; 2]) -> [*const u8; 2] {
        let base = match &self.data {
            Data::F32(w) => w.as_ptr().cast::<u8>(),
            Data::Bf16(w) | Data::Pairs(w, _) => w.as_ptr().cast(),
            Data::Int8(w, _) => w.as_ptr().cast(),
        };
        let rows = match &self.data {
            Data::Pairs(_, segment) => bf16::rows(self.k, *segment),
            _ => self.k,
        };
        let row_bytes = self.experts * self.nr * self.value_bytes();
        let at = |row| base.wrapping_add((panel * rows + row) * row_bytes);
        [at(from), at(to)]
    }

    /// The packed values, panel by panel: to be brought into a cache, not to be understood.
    pub fn as_bytes(&self) -> &[u8] {
        let [start, _] = self.bytes(0, [0, 0]);
        let len = match &self.data {
            Data::F32(w) => size_of_val(&**w),
            Data::Bf16(w) | Data::Pairs(w, _) => size_of_val(&**w),
            Data::Int8(w, _) => size_of_val(&**w),
        };
        // SAFETY: `len` initialised bytes of plain numbers, borrowed as long as `self` is.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Bytes that fusing or multiplying with all panels reads.
    pub fn len_bytes(&self) -> usize {
        match &self.data {
            Data::F32(w) => size_of_val(&**w),
            Data::Bf16(w) | Data::Pairs(w, _) => size_of_val(&**w),
            Data::Int8(w, scale) => size_of_val(&**w) + size_of_val(&**scale),
        }
    }

    /// The stored value of a weight, widened.
    ///
    /// # Panics
    /// If there is no such weight.
    pub fn value(&self, expert: usize, channel: usize, row: usize) -> f32 {
        assert!(
            expert < self.experts && channel < self.n && row < self.k,
            "weight {expert}, {channel}, {row}"
        );
        let (panel, lane) = (channel / self.nr, channel % self.nr);
        let first = ((panel * self.k + row) * self.experts + expert) * self.nr;
        match &self.data {
            Data::F32(w) => w[first + lane],
            Data::Bf16(w) => widen(w[first + word(lane, self.nr)]),
            Data::Int8(w, scale) => f32::from(w[first + lane]) * scale[expert * self.n + channel],
            Data::Pairs(w, segment) => {
                let rows = bf16::rows(self.k, *segment);
                let row = panel * rows + row / segment * bf16::rows(*segment, *segment) + row % segment;
                widen(w[(row / 2 * self.nr + lane) * 2 + row % 2])
            }
        }
    }
}

/// Where channel `lane` of a row of bfloat16 lies: both halves of the row share 32-bit words.
fn word(lane: usize, nr: usize) -> usize {
    2 * (lane % (nr / 2)) + lane / (nr / 2)
}

/// A bfloat16 as f32.
fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Rounds to the nearest bfloat16, ties to even; not a number stays so.
pub(crate) fn round_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // Half of the last kept bit, less one where that bit is even: a tie then rounds down.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let cases = [
            (1.0, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
        ];
        for (x, bits) in cases {
            assert_eq!(round_bf16(x), bits, "{x:e}");
        }
        assert!(f32::from_bits(u32::from(round_bf16(f32::NAN)) << 16).is_nan());
    }

    #[test]
    fn packed_weights_read_back() {
        let shape = KernelShape { experts: 3, c_out: 37, c_in: 5, taps: 4 };
        let weights: Vec<f32> = (0..shape.len().unwrap()).map(|i| (i as f32 * 0.37).sin()).collect();
        for isa in Isa::available() {
            // Half a unit in the last place of 8 bits; half a step of 1/127 of the largest, which is below 1.
            for (storage, tolerance) in
                [(Storage::F32, 0.0), (Storage::Bf16, 1.0 / 512.0), (Storage::Int8, 0.5 / 127.0 + 1e-6)]
            {
                let packed = Panels::pack(isa, storage, shape, &weights);
                for (i, w) in weights.iter().enumerate() {
                    let (tap, c_in, c) = (i % 4, i / 4 % 5, i / 20 % 37);
                    let back = packed.value(i / 740, c, tap * 5 + c_in);
                    assert!((back - w).abs() <= tolerance, "{isa} {storage:?} weight {i}: {back} of {w}");
                }
            }
        }
    }
}
