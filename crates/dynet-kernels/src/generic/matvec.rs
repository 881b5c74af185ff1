//! The matrix-vector product: one pixel times all panels, as a predictor or a classifier of one image needs it.

use crate::generic::LINE_BYTES;
use crate::generic::fuse::load_row;
use crate::generic::gemm::{finish, finish_apart};
use crate::generic::operands::Sink;
use crate::panels::{Data, Panels};
use crate::vector::{Job, Vector};

/// Panels that are multiplied at once. One panel has two accumulators, whose additions wait 4 cycles for each other;
/// 4 x 2 keep two multipliers busy, and four streams are what the hardware prefetches well.
const AT_ONCE: usize = 4;

/// Bytes of a panel from what is multiplied to what is asked for. The hardware by itself reads 13 to 16 GB/s of four streams, with this
/// 17 to 20: predictors of mobilenet_v2 with K = 4 took 0.86 of the time, in bf16 0.72, in int8 0.76 (AVX-512; with AVX2 0.82, 0.79
/// and 0.83). With 512 bytes or 4 KiB they took up to a tenth longer.
const BYTES_AHEAD: usize = 2048;

/// One pixel times the panels from `first` on, of stored weights of a single kernel, widened on the way.
///
/// Bits are those of [`PanelProduct`](crate::generic::gemm::PanelProduct) on the fused panel.
pub(crate) struct MatVec<'a> {
    /// `panels.k()` values.
    pub(crate) x: *const f32,
    pub(crate) panels: &'a Panels,
    /// First panel.
    pub(crate) first: usize,
    /// Of one row; `cols` counts those of all panels.
    pub(crate) sink: Sink,
}

impl Job for MatVec<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let panels = self.sink.cols.div_ceil(2 * V::LANES);
        let mut done = 0;
        while done < panels {
            let step = if panels - done >= AT_ONCE { AT_ONCE } else { 1 };
            match step {
                AT_ONCE => v.call_apart(Panels4 { job: &self, done }),
                _ => v.call_apart(Panels1 { job: &self, done }),
            }
            done += step;
        }
    }
}

/// [`AT_ONCE`] panels.
struct Panels4<'a> {
    job: &'a MatVec<'a>,
    done: usize,
}

impl Job for Panels4<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.job.multiply::<V, AT_ONCE>(v, self.done);
    }
}

/// One panel.
struct Panels1<'a> {
    job: &'a MatVec<'a>,
    done: usize,
}

impl Job for Panels1<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.job.multiply::<V, 1>(v, self.done);
    }
}

impl MatVec<'_> {
    /// `N` panels from panel `first + done` on.
    #[inline(always)]
    fn multiply<V: Vector, const N: usize>(&self, v: V, done: usize) {
        let (nr, k) = (2 * V::LANES, self.panels.k());
        let some = |p: *const f32, c: usize| {
            // SAFETY: `cols` values follow.
            unsafe { v.load_some(p.wrapping_add(c), self.sink.cols.saturating_sub(c)) }
        };
        let columns = |i: usize, j: usize| (done + i) * nr + j * V::LANES;
        let mut acc: [[V::Reg; 2]; N] = std::array::from_fn(|i| {
            std::array::from_fn(|j| match self.sink.bias.is_null() {
                true => v.splat(0.0),
                false => some(self.sink.bias, columns(i, j)),
            })
        });
        let mut scale = [[v.splat(1.0); 2]; N];
        if let Data::Int8(_, scales) = &self.panels.data {
            let first = scales[self.first * nr..].as_ptr();
            scale = std::array::from_fn(|i| std::array::from_fn(|j| some(first, columns(i, j))));
        }
        let panel = (self.first + done) * k * nr;
        let [weights, _] = self.panels.bytes(self.first + done, [0, 0]);
        let row_bytes = nr * self.panels.value_bytes();
        let rows_ahead = BYTES_AHEAD / row_bytes;
        for row in 0..k {
            // At its end each panel asks for the one of the next `N` that is multiplied in its place.
            let ahead = row + rows_ahead + if row + rows_ahead < k { 0 } else { (N - 1) * k };
            for i in 0..N {
                let at = weights.wrapping_add((i * k + ahead) * row_bytes);
                for line in (0..row_bytes).step_by(LINE_BYTES) {
                    v.prefetch_near(at.wrapping_add(line));
                }
            }
            // SAFETY: `x` has `k` values.
            let x = v.splat(unsafe { *self.x.add(row) });
            for i in 0..N {
                let mut w = load_row(v, &self.panels.data, panel + (i * k + row) * nr);
                if let Data::Int8(..) = &self.panels.data {
                    w = [v.mul(scale[i][0], w[0]), v.mul(scale[i][1], w[1])];
                }
                acc[i] = [v.fma(x, w[0], acc[i][0]), v.fma(x, w[1], acc[i][1])];
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            let sink = self.sink.columns(columns(i, 0), nr);
            // SAFETY: the sink has one row of these columns.
            unsafe {
                match sink.act.bounds() {
                    Some(bounds) => finish::<V, 1, 2, false>(v, [acc], &sink, bounds),
                    None => finish_apart::<V, 1, 2>(v, [acc], &sink),
                }
            }
        }
    }
}
