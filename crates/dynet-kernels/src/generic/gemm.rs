//! The matrix product: rows of pixels times a panel of packed weights.

use crate::generic::LINE_BYTES;
use crate::generic::fuse::FuseBeside;
use crate::generic::operands::{PIECE, Sink, Source};
use crate::generic::pixelwise::reactivate;
use crate::sums::SumRows;
use crate::vector::{Job, Vector};

/// Outputs from this size on are asked for before they are written: they come from the last-level cache. Half of a
/// second-level cache of 1 MiB.
pub(crate) const FAR_BYTES: usize = 512 << 10;

/// Bytes that a tile asks for with each value of `k`: half a line. A tile of 6 x 16 takes 6 cycles for one value, one of
/// 14 x 32 14 to 28, so that this is 5 to 15 GB/s, which leaves room for what the product itself reads. At twice that pace
/// ResNets with K = 4 took 8 % longer with AVX2, as they waited for what they had asked for; with AVX-512 and a memory that
/// gives a core 10 to 18 GB/s static resnet50 took 23 % longer at four times the pace.
pub(crate) const PACE: usize = LINE_BYTES / 2;

/// Rows up to which a panel that comes from memory holds its product up, which multiplies in less time than memory takes.
pub(crate) const FEW_ROWS: usize = 16;
/// Bytes between what such a product reads and what it asks for. With 1 KiB the predictors of mobilenet_v2 (K = 4, eight images) took
/// 0.88 of the time without, with 4 to 16 KiB 0.72.
pub(crate) const FEW_AHEAD: usize = 8192;

/// Memory that is read next: the product asks for it while it multiplies. It is never read through these pointers.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) next: *const u8,
    pub(crate) end: *const u8,
    /// What is asked for when that has come, from and to; `None` if there is nothing, or if it has begun.
    pub(crate) later: Option<[*const u8; 2]>,
    /// Bytes for each value of `k`.
    pace: usize,
    /// What is fused on the way.
    pub(crate) fuse: Option<FuseBeside>,
}

impl Ahead {
    /// One piece of memory, from and to.
    pub(crate) const fn new([next, end]: [*const u8; 2]) -> Self {
        Self { next, end, later: None, pace: PACE, fuse: None }
    }

    /// The panel that is multiplied, from and to, of rows of `row` bytes: each line some time before a few rows of pixels read it.
    pub(crate) fn of_few_rows(panel: [*const u8; 2], row: usize) -> Self {
        Self { pace: row, ..Self::new(panel.map(|at| at.wrapping_add(FEW_AHEAD))) }
    }

    /// The same, asked for evenly during `steps` values of `k`, or as far as a line with each goes: fixed kernels of layers of 7x7
    /// pixels are more than half a line with each brings. A tile of 14 x 32 has time for a line; for two it waits.
    pub(crate) fn during(self, steps: usize) -> Self {
        let len = self.end as usize - self.next as usize;
        Self { pace: (len / steps.max(1)).clamp(PACE, LINE_BYTES), ..self }
    }

    /// The same, and what is asked for behind it.
    pub(crate) const fn then(self, later: [*const u8; 2]) -> Self {
        Self { later: Some(later), ..self }
    }

    /// The piece behind the first one, as far as it was not asked for.
    pub(crate) fn rest(&self) -> [*const u8; 2] {
        self.later.unwrap_or([self.next, self.end])
    }

    /// Where to go on, and by how much with each value of `k`.
    #[inline(always)]
    pub(crate) fn step(&mut self) -> usize {
        if self.next >= self.end
            && let Some(later) = self.later
        {
            *self = Self { fuse: self.fuse, ..Self::new(later) };
        }
        if self.next < self.end { self.pace } else { 0 }
    }
}

/// Multiplies `rows` rows with the rows `k` of one panel `[k][nr]`.
///
/// Every output is one sum over `k` in order, in one accumulator, which a product that stops before the last value
/// leaves in `out`: its bits depend neither on the tile that it falls into nor on the number of rows nor on where `k`
/// was cut. Sums over the rows of a run depend on that run alone.
#[derive(Clone, Copy)]
pub(crate) struct PanelProduct {
    pub(crate) rows: usize,
    pub(crate) source: Source,
    /// Values of a row, from and to.
    pub(crate) k: [usize; 2],
    /// The panel from row `k[0]` on.
    pub(crate) panel: *const f32,
    pub(crate) sink: Sink,
    pub(crate) ahead: Ahead,
}

impl PanelProduct {
    /// Each run of rows that are added up by itself, so that its sums do not depend on what lies around it.
    ///
    /// # Safety
    /// All rows of the source, the panel and the rows and columns of the sink must exist, the sink's for this
    /// thread alone.
    #[inline(always)]
    unsafe fn tiles<V: Vector>(&self, v: V) -> Ahead {
        let (mut row, mut ahead) = (0, self.ahead);
        while row < self.rows {
            let rows = self.sink.sums.every.min(self.rows - row);
            // SAFETY: `row + rows <= self.rows`.
            ahead = unsafe { self.run_of_rows(v, [row, rows], ahead) };
            row += rows;
        }
        ahead
    }

    /// Cuts `rows` rows from row `row` on into tiles of nearly equal height, so that no small rest is left whose few accumulators
    /// would wait for each other: first the higher ones, then those of a row less.
    ///
    /// # Safety
    /// As [`Self::tiles`], for these rows, of which there must be one.
    #[inline(always)]
    unsafe fn run_of_rows<V: Vector>(&self, v: V, [row, rows]: [usize; 2], ahead: Ahead) -> Ahead {
        let tiles = rows.div_ceil(V::MR);
        let low = rows / tiles;
        let high_tiles = rows - low * tiles;
        // SAFETY: `high_tiles * (low + 1) + (tiles - high_tiles) * low = rows`.
        unsafe {
            let ahead = self.rows_of(v, row, [high_tiles, low + 1], ahead);
            self.rows_of(v, row + high_tiles * (low + 1), [tiles - high_tiles, low], ahead)
        }
    }

    /// `tiles` tiles of `mr` rows from row `row` on; returns what is left to be read ahead.
    ///
    /// # Safety
    /// As [`Self::tiles`], for these rows.
    #[inline(always)]
    unsafe fn rows_of<V: Vector>(&self, v: V, row: usize, [tiles, mr]: [usize; 2], ahead: Ahead) -> Ahead {
        if tiles == 0 {
            return ahead;
        }
        // SAFETY: row `row` exists.
        let (source, mut sink) = unsafe { (self.source.skip(row), self.sink.skip(row)) };
        sink.sums = sink.sums.after(row);
        let (k, panel) = (self.k, self.panel);
        let far = self.rows * sink.ld * size_of::<f32>() >= FAR_BYTES;
        macro_rules! call {
            ($nb:literal $fuses:literal: $($mr:literal)*) => {
                match mr {
                    $($mr => v.call_apart(TileJob::<$mr, $nb, $fuses> { tiles, source, k, panel, sink, ahead, far }),)*
                    _ => ahead,
                }
            };
        }
        if V::ROW == 2 * V::LANES && sink.cols > V::LANES {
            match ahead.fuse {
                Some(_) if V::FUSES => call!(2 true: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                _ => call!(2 false: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            }
        } else {
            call!(1 false: 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
        }
    }
}

impl Job for PanelProduct {
    /// What is left to be asked for.
    type Out = Ahead;

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) -> Ahead {
        let (whole, tail) = self.sink.columns_of(v);
        // SAFETY: `Conv` checked all sizes before it made this job.
        unsafe {
            if tail == 0 {
                return self.tiles(v);
            }
            // A few last columns in half a register, which takes half the time.
            if whole > 0 {
                let sink = self.sink.columns(0, whole);
                self.ahead = Self { sink, ..self }.tiles(v);
            }
            self.sink = self.sink.columns(whole, tail);
            self.panel = self.panel.add(whole);
            self.tiles(v.half())
        }
    }
}

/// Tiles of `MR` rows times `NB` registers of columns of one panel.
struct TileJob<const MR: usize, const NB: usize, const FUSES: bool> {
    tiles: usize,
    source: Source,
    k: [usize; 2],
    panel: *const f32,
    sink: Sink,
    ahead: Ahead,
    /// Whether what the tiles write has left the second-level cache.
    far: bool,
}

impl<const MR: usize, const NB: usize, const FUSES: bool> Job for TileJob<MR, NB, FUSES> {
    type Out = Ahead;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Ahead {
        let Self { tiles, mut source, k, panel, mut sink, mut ahead, far } = self;
        if MR > V::MR || (FUSES && !V::FUSES) {
            return ahead;
        }
        let mut fuse = ahead.fuse.filter(|_| FUSES);
        for _ in 0..tiles {
            let step = if V::ROW == 2 * V::LANES { ahead.step() } else { 0 };
            if far {
                sink.expect::<V, MR, NB>(v);
            }
            // SAFETY: `PanelProduct::tiles` makes only tiles whose rows exist.
            unsafe {
                let next = (ahead.next, step, fuse.as_mut());
                let acc = multiply::<V, MR, NB, FUSES>(v, (&source, k), &sink, panel, next);
                ahead.next = ahead.next.wrapping_add(step * (k[1] - k[0]));
                store::<V, MR, NB>(v, acc, &sink);
                source = source.skip(MR);
                sink = sink.skip(MR);
            }
        }
        Ahead { fuse: fuse.or(ahead.fuse), ..ahead }
    }
}

type Acc<V, const MR: usize, const NB: usize> = [[<V as Vector>::Reg; NB]; MR];

/// The sums over `k`, on top of the bias or of the sums so far. With each value it asks for the memory at `ahead`,
/// which moves on by `step` bytes; products of half registers have no time for it. `FUSES`: it fuses rows of other weights, too.
///
/// # Safety
/// As [`PanelProduct::tiles`].
#[inline(always)]
unsafe fn multiply<V: Vector, const MR: usize, const NB: usize, const FUSES: bool>(
    v: V,
    (source, [from, to]): (&Source, [usize; 2]),
    sink: &Sink,
    mut panel: *const f32,
    (mut ahead, step, mut fuse): (*const u8, usize, Option<&mut FuseBeside>),
) -> Acc<V, MR, NB> {
    let every = fuse.as_ref().map_or(usize::MAX, |fuse| fuse.every);
    let mut until = every;
    // SAFETY: the caller's promise.
    let mut acc = unsafe { start::<V, MR, NB>(v, sink) };
    // A division takes as long as some rows of the panel.
    let (mut tap, mut k0) = if from == 0 { (0, 0) } else { (from / source.len, from % source.len) };
    let mut left = to - from;
    while left > 0 {
        let len = (source.len - k0).min(PIECE).min(left);
        let mut rows = [source.base; MR];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: rows `0..MR` exist, `k0` lies within a segment.
            *row = unsafe { source.segment(i, tap, k0) };
        }
        for k in 0..len {
            if V::ROW == 2 * V::LANES {
                v.prefetch(ahead);
                if MR <= FEW_ROWS / 2 && V::ROW * size_of::<f32>() > LINE_BYTES {
                    v.prefetch(ahead.wrapping_add(step / 2));
                }
                ahead = ahead.wrapping_add(step);
            }
            if FUSES {
                until -= 1;
                if until == 0
                    && let Some(fuse) = &mut fuse
                {
                    until = every;
                    // SAFETY: who made it has all that it reads and writes.
                    unsafe { fuse.row(v) };
                }
            }
            // SAFETY: `k` lies within the segment, and the panel has a row of registers for each value.
            unsafe {
                let mut b = [v.splat(0.0); NB];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = v.load(panel.add(j * V::LANES));
                }
                for (acc, row) in acc.iter_mut().zip(rows) {
                    let a = v.splat(*row.add(k));
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc = v.fma(a, b, *acc);
                    }
                }
                panel = panel.add(V::ROW);
            }
        }
        left -= len;
        k0 += len;
        if k0 == source.len {
            (tap, k0) = (tap + 1, 0);
        }
    }
    acc
}

/// What the sums start from.
///
/// # Safety
/// As [`PanelProduct::tiles`].
#[inline(always)]
pub(crate) unsafe fn start<V: Vector, const MR: usize, const NB: usize>(v: V, sink: &Sink) -> Acc<V, MR, NB> {
    let mut acc = [[v.splat(0.0); NB]; MR];
    let (first, ld) = match (sink.resume, sink.bias.is_null()) {
        (true, _) => (sink.out.cast_const(), sink.ld),
        (false, false) => (sink.bias, 0),
        (false, true) => return acc,
    };
    for (i, acc) in acc.iter_mut().enumerate() {
        for (j, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the sink has as many values of bias as columns, and all its rows.
            *acc = unsafe { load_columns(v, first.wrapping_add(i * ld), sink.cols, j) };
        }
    }
    acc
}

/// Columns of register `j` of `cols`.
///
/// # Safety
/// `cols` values must be readable at `p`.
#[inline(always)]
unsafe fn load_columns<V: Vector>(v: V, p: *const f32, cols: usize, j: usize) -> V::Reg {
    // SAFETY: at most `cols - j * LANES` values from `j * LANES` on.
    unsafe { v.load_some(p.wrapping_add(j * V::LANES), cols.saturating_sub(j * V::LANES)) }
}

/// Ends a tile in the way that its activation and its columns need.
///
/// # Safety
/// As [`PanelProduct::tiles`].
#[inline(always)]
pub(crate) unsafe fn store<V: Vector, const MR: usize, const NB: usize>(
    v: V,
    acc: Acc<V, MR, NB>,
    sink: &Sink,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (sink.act.bounds(), sink.cols == NB * V::LANES) {
            (Some(bounds), true) => finish::<V, MR, NB, true>(v, acc, sink, bounds),
            (Some(bounds), false) => finish::<V, MR, NB, false>(v, acc, sink, bounds),
            (None, _) => finish_apart::<V, MR, NB>(v, acc, sink),
        }
    }
}

/// Adds the residual, clamps, stores, and adds to the channel sums.
///
/// # Safety
/// As [`PanelProduct::tiles`]; `FULL` only with all columns of the registers.
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector, const MR: usize, const NB: usize, const FULL: bool>(
    v: V,
    mut acc: Acc<V, MR, NB>,
    sink: &Sink,
    [lo, hi]: [f32; 2],
) {
    let (lo, hi) = (v.splat(lo), v.splat(hi));
    let mut sum = [v.splat(0.0); NB];
    if !sink.residual.is_null() {
        // All before the first store: where a row's last register is not full it waits for the store of the row before, which it
        // would overlap.
        let mut residual = sink.residual;
        for acc in &mut acc {
            for (j, acc) in acc.iter_mut().enumerate() {
                let r = residual.wrapping_add(j * V::LANES);
                // SAFETY: as below.
                *acc = v.add(*acc, unsafe {
                    if FULL { v.load(r) } else { load_columns(v, residual, sink.cols, j) }
                });
            }
            residual = residual.wrapping_add(sink.residual_ld);
        }
    }
    let mut out = sink.out;
    for acc in acc {
        for j in 0..NB {
            let c0 = j * V::LANES;
            let lanes = sink.cols.saturating_sub(c0);
            let x = v.min(hi, v.max(lo, acc[j]));
            // SAFETY: the caller's promise for `lanes` columns from `c0` on; `FULL` says that they fill a register.
            unsafe { if FULL { v.store(out.add(c0), x) } else { v.store_some(out.add(c0), x, lanes) } }
            sum[j] = v.add(sum[j], x);
        }
        out = out.wrapping_add(sink.ld);
    }
    if !sink.sums.is_none() {
        for (j, sum) in sum.into_iter().enumerate() {
            let p = sink.sums.at.wrapping_add(j * V::LANES);
            let lanes = sink.cols.saturating_sub(j * V::LANES);
            // SAFETY: the caller's promise for `lanes` columns.
            unsafe { v.store_some(p, v.add(v.load_some(p, lanes), sum), lanes) };
        }
    }
}

/// [`finish`] for activations that are too long to be repeated for each register: they run over the stored values.
///
/// # Safety
/// As [`PanelProduct::tiles`].
#[inline(always)]
pub(crate) unsafe fn finish_apart<V: Vector, const MR: usize, const NB: usize>(
    v: V,
    acc: Acc<V, MR, NB>,
    sink: &Sink,
) {
    let plain = Sink { sums: SumRows::NONE, ..*sink };
    // SAFETY: the caller's promise.
    unsafe {
        finish::<V, MR, NB, false>(v, acc, &plain, [f32::NEG_INFINITY, f32::INFINITY]);
        reactivate(v, sink.out, sink.ld, MR, sink.cols, sink.act, sink.sums.at);
    }
}
