//! `fuse`: the left side of Eq. 2, a panel of output channels at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::generic::LINE_BYTES;
use crate::isa::Isa;
use crate::panels::{Data, Panels};
use crate::vector::{Job, Vector};
use crate::view::Coefs;

/// Fixed kernels that are fused in one pass over a panel. With two registers of coefficients each they take 16 of
/// the 32 registers of AVX-512; more kernels take further passes that add to the first.
const PASS: usize = 8;

/// Fuses some rows of one panel: `dynamic[k][lane] = scale[k] * sum_e coef[e][channel] * fixed[k][e][lane]`.
///
/// The sum runs over the experts in order, in passes of [`PASS`]; without coefficients they all count 1.
pub(crate) struct FusePanel<'a> {
    pub(crate) panels: &'a Panels,
    pub(crate) panel: usize,
    /// Rows, from and to.
    pub(crate) rows: [usize; 2],
    pub(crate) coefs: Option<Coefs<'a>>,
    /// One factor for each input channel; row `k` takes factor `k % len`.
    pub(crate) row_scale: Option<&'a [f32]>,
    /// Bytes from what is read to what is asked for, which lies there whether it is read next or not; 0 for nothing.
    pub(crate) ahead: usize,
    /// `[rows][nr]`.
    pub(crate) dynamic: &'a mut [f32],
}

/// Fuses, by the clock of the coefficients if they have one.
#[inline]
pub(crate) fn fuse(isa: Isa, job: FusePanel<'_>) {
    timed(job.coefs.and_then(|c| c.clock()), || isa.run(job));
}

/// Does some work, by the clock if there is one.
#[inline]
pub(crate) fn timed(clock: Option<&AtomicU64>, work: impl FnOnce()) {
    let Some(clock) = clock else { return work() };
    let start = Instant::now();
    work();
    // Relaxed: a sum that is read after all threads have joined.
    clock.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
}

impl Job for FusePanel<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let p = self.panels;
        let nr = 2 * V::LANES;
        assert!(p.nr() == nr && self.panel < p.count(), "panel {} of {} x {}", self.panel, p.count(), p.nr());
        assert!(!matches!(p.data, Data::Pairs(..)), "weights that have been rounded and laid out");
        let [from, to] = self.rows;
        assert!(from <= to && to <= p.k(), "rows {from}..{to} of {}", p.k());
        let needed = (to - from) * nr;
        assert!(self.dynamic.len() >= needed, "scratch has {} values, {needed} needed", self.dynamic.len());
        let mut e = 0;
        while e < p.experts() {
            let some = (p.experts() - e).min(PASS);
            match some {
                1 => self.pass::<V, 1>(v, e),
                2 => self.pass::<V, 2>(v, e),
                3 => self.pass::<V, 3>(v, e),
                4 => self.pass::<V, 4>(v, e),
                5 => self.pass::<V, 5>(v, e),
                6 => self.pass::<V, 6>(v, e),
                7 => self.pass::<V, 7>(v, e),
                _ => self.pass::<V, PASS>(v, e),
            }
            e += some;
        }
        if let Some(scale) = self.row_scale {
            for k in from..to {
                let factor = v.splat(scale[k % scale.len()]);
                let row = self.dynamic[(k - from) * nr..][..nr].as_mut_ptr();
                for j in 0..2 {
                    // SAFETY: `row` has two registers.
                    unsafe { v.store(row.add(j * V::LANES), v.mul(factor, v.load(row.add(j * V::LANES)))) };
                }
            }
        }
    }
}

/// Rows of a panel that a product fuses while it multiplies, a row with every few values of `k`: memory gives their fixed kernels
/// meanwhile, which fusing by itself would wait for.
///
/// The rows are read in [`STREAMS`] parts, since the hardware reads ahead within a page and begins anew with each.
#[derive(Clone, Copy)]
pub(crate) struct FuseBeside {
    /// The first row, `[expert][nr]`.
    fixed: *const f32,
    experts: usize,
    /// Values of a row of all experts.
    step: usize,
    /// `[expert][nr]`.
    coefs: *const f32,
    /// Rows of a part.
    part: usize,
    /// Rows that have been fused, the first of each part, then the second ones.
    done: usize,
    /// Values of `k` for a row.
    pub(crate) every: usize,
    /// `[rows][nr]`.
    dynamic: *mut f32,
}

/// Parts of the rows that a product fuses.
const STREAMS: usize = 4;
/// Values from what is fused beside a product to what is asked for: 1 KiB.
const BESIDE_AHEAD: usize = 256;

impl FuseBeside {
    /// As many of a job's rows as fit beside a product of `tiles` tiles of `k` values; `coefs` receives coefficients `[expert][nr]`.
    /// `None` where a row is more than a sum of fixed kernels in f32: others are so few bytes that memory gives them in time.
    pub(crate) fn new(
        isa: Isa,
        job: &mut FusePanel<'_>,
        [tiles, k]: [usize; 2],
        coefs: &mut [f32],
    ) -> Option<Self> {
        let (p, [from, to]) = (job.panels, job.rows);
        let (experts, step) = (p.experts(), p.experts() * p.nr());
        let every = (tiles * k / (to - from).max(1)).max(1);
        let part = (to - from).min(tiles * (k / every)) / STREAMS;
        let fits = step <= coefs.len() && job.dynamic.len() >= (to - from) * p.nr();
        let Data::F32(fixed) = &p.data else { return None };
        if job.row_scale.is_some() || part == 0 || !fits {
            return None;
        }
        isa.run(PanelCoefs { job, out: &mut coefs[..step] });
        let fixed = fixed[(job.panel * p.k() + from) * step..][..(to - from) * step].as_ptr();
        let (coefs, dynamic) = (coefs.as_ptr(), job.dynamic.as_mut_ptr());
        Some(Self { fixed, experts, step, coefs, part, done: 0, every, dynamic })
    }

    /// Rows that have been fused: all, or none that count.
    pub(crate) fn rows(&self) -> usize {
        if self.done == STREAMS * self.part { self.done } else { 0 }
    }

    /// Fuses one row, if one is left.
    ///
    /// # Safety
    /// The weights, coefficients and scratch that it was made of must exist, the scratch for this thread alone.
    #[inline(always)]
    pub(crate) unsafe fn row<V: Vector>(&mut self, v: V) {
        if self.done == STREAMS * self.part {
            return;
        }
        let (stream, within) = (self.done % STREAMS, self.done / STREAMS);
        let row = stream * self.part + within;
        self.done += 1;
        let fixed = self.fixed.wrapping_add(row * self.step);
        // At the end of a part, that of the rows behind all parts: the next product fuses them.
        let rest = (self.part - within) * self.step;
        let next = if rest > BESIDE_AHEAD { 0 } else { (STREAMS - 1) * self.part * self.step };
        let ahead = fixed.wrapping_add(BESIDE_AHEAD + next);
        for at in (0..self.step).step_by(LINE_BYTES / size_of::<f32>()) {
            v.prefetch_near(ahead.wrapping_add(at).cast());
        }
        let to = self.dynamic.wrapping_add(row * 2 * V::LANES);
        // SAFETY: row `row` is one of those that the caller promises.
        unsafe {
            match self.experts {
                4 => self.sum::<V>(v, 4, fixed, to),
                experts => self.sum::<V>(v, experts, fixed, to),
            }
        }
    }

    /// Adds up the experts of a row, in their order, as [`FusePanel`] does.
    ///
    /// # Safety
    /// Two registers of each expert must exist at `fixed` and of coefficients, and two at `to`.
    #[inline(always)]
    unsafe fn sum<V: Vector>(&self, v: V, experts: usize, fixed: *const f32, to: *mut f32) {
        let mut sum = [v.splat(0.0); 2];
        for at in (0..experts).map(|e| e * 2 * V::LANES) {
            let (w, c) = (fixed.wrapping_add(at), self.coefs.wrapping_add(at));
            for (j, sum) in sum.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = unsafe { v.fma(v.load(c.add(j * V::LANES)), v.load(w.add(j * V::LANES)), *sum) };
            }
        }
        for (j, sum) in sum.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { v.store(to.add(j * V::LANES), sum) };
        }
    }
}

/// Coefficients `[expert][nr]` of a panel's channels.
struct PanelCoefs<'a, 'b> {
    job: &'a FusePanel<'b>,
    out: &'a mut [f32],
}

impl Job for PanelCoefs<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (e, out) in self.out.chunks_exact_mut(2 * V::LANES).enumerate() {
            let [c] = self.job.coefficients::<V, 1>(v, e);
            for (out, c) in out.chunks_exact_mut(V::LANES).zip(c) {
                // SAFETY: a register long.
                unsafe { v.store(out.as_mut_ptr(), c) };
            }
        }
    }
}

impl FusePanel<'_> {
    /// Fuses experts `first..first + E`; those before are in `dynamic` already.
    #[inline(always)]
    fn pass<V: Vector, const E: usize>(&mut self, v: V, first: usize) {
        let p = self.panels;
        let nr = 2 * V::LANES;
        let c = self.coefficients::<V, E>(v, first);
        let [from, to] = self.rows;
        let start = ((self.panel * p.k() + from) * p.experts() + first) * nr;
        let step = p.experts() * nr;
        let [mut next, _] = p.bytes(self.panel, [from, to]);
        let row_bytes = step * p.value_bytes();
        next = next.wrapping_add(self.ahead);
        for k in 0..to - from {
            if self.ahead > 0 {
                for line in (0..row_bytes).step_by(LINE_BYTES) {
                    v.prefetch(next.wrapping_add(line));
                }
                next = next.wrapping_add(row_bytes);
            }
            let row = self.dynamic[k * nr..][..nr].as_mut_ptr();
            let at = start + k * step;
            let mut sum = [v.splat(0.0); 2];
            if first > 0 {
                // SAFETY: `row` has two registers.
                sum = unsafe { [v.load(row), v.load(row.add(V::LANES))] };
            }
            for (e, c) in c.iter().enumerate() {
                let w = load_row(v, &p.data, at + e * nr);
                sum = [v.fma(c[0], w[0], sum[0]), v.fma(c[1], w[1], sum[1])];
            }
            // SAFETY: `row` has two registers.
            unsafe {
                v.store(row, sum[0]);
                v.store(row.add(V::LANES), sum[1]);
            }
        }
    }

    /// Coefficients of the panel's channels, times the scale of int8 weights; zeros behind the last channel.
    #[inline(always)]
    fn coefficients<V: Vector, const E: usize>(&self, v: V, first: usize) -> [[V::Reg; 2]; E] {
        // Loops: the compiler leaves closures of `from_fn` as functions apart, which lack the instruction set, and then
        // calls each intrinsic.
        let n = self.panels.n();
        let mut all = [[v.splat(1.0); 2]; E];
        for (e, all) in all.iter_mut().enumerate() {
            for (j, coef) in all.iter_mut().enumerate() {
                let c0 = self.panel * 2 * V::LANES + j * V::LANES;
                let lanes = n.saturating_sub(c0).min(V::LANES);
                let from = if lanes == 0 { 0..0 } else { (first + e) * n + c0..(first + e) * n + c0 + lanes };
                match self.coefs {
                    None => {}
                    Some(c) if c.first_panel().is_some() => {
                        let before = self.panel - c.first_panel().unwrap_or(0);
                        let at = (before * self.panels.experts() + first + e) * 2 * V::LANES + j * V::LANES;
                        // SAFETY: the slice is a register long.
                        *coef = unsafe { v.load(c.data()[at..][..V::LANES].as_ptr()) };
                    }
                    Some(c) if c.channels() == 1 => *coef = v.splat(c.data()[first + e]),
                    // SAFETY: the slice has `lanes` values.
                    Some(c) => *coef = unsafe { v.load_some(c.data()[from.clone()].as_ptr(), lanes) },
                }
                if let Data::Int8(_, scale) = &self.panels.data {
                    // SAFETY: as above.
                    *coef = v.mul(*coef, unsafe { v.load_some(scale[from].as_ptr(), lanes) });
                }
            }
        }
        all
    }
}

/// The two registers of weights that start at `at`.
#[inline(always)]
pub(crate) fn load_row<V: Vector>(v: V, data: &Data, at: usize) -> [V::Reg; 2] {
    let nr = 2 * V::LANES;
    // SAFETY: each slice has `nr` values.
    unsafe {
        match data {
            Data::F32(w) => {
                let w = w[at..][..nr].as_ptr();
                [v.load(w), v.load(w.add(V::LANES))]
            }
            Data::Bf16(w) => v.load_bf16(w[at..][..nr].as_ptr()),
            Data::Int8(w, _) => {
                let w = w[at..][..nr].as_ptr();
                [v.load_i8(w), v.load_i8(w.add(V::LANES))]
            }
            // Nobody asks: they are multiplied as they lie.
            Data::Pairs(..) => [v.splat(0.0); 2],
        }
    }
}
