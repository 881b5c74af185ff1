//! Convolutions with few channels in a group: output channels of several groups share a register.

use crate::geometry::Geometry;
use crate::shared::Tile;
use crate::vector::{Job, Vector};
use crate::view::{Epilogue, Pixels};

/// One panel of output channels of a grouped convolution, weights fused.
///
/// Row `(tap, i)` of the panel holds for each output channel its weight of the `i`-th input of its group.
pub(crate) struct GroupedPanel<'a, 't> {
    pub(crate) x: Pixels<'a>,
    pub(crate) geometry: &'a Geometry,
    /// Channels of a group: inputs, outputs.
    pub(crate) group: [usize; 2],
    /// `[tap][input of the group][nr]`.
    pub(crate) panel: &'a [f32],
    pub(crate) epilogue: Epilogue<'a>,
    /// The panel's channels, whole rows of the image.
    pub(crate) out: &'a mut Tile<'t>,
    /// Sums over the pixels are added here; empty for none.
    pub(crate) sums: &'a mut [f32],
}

impl Job for GroupedPanel<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        for i in 0..self.out.pixels() {
            for c in (0..self.out.channels()).step_by(V::LANES) {
                self.pixel(v, i, c);
            }
        }
    }
}

impl GroupedPanel<'_, '_> {
    #[inline(always)]
    fn pixel<V: Vector>(&mut self, v: V, i: usize, c: usize) {
        let g = self.geometry;
        let (n, c0, p) = (self.out.channels(), self.out.channel0(), self.out.pixel0() + i);
        let [oy, ox] = [p / g.output()[1], p % g.output()[1]];
        let lanes = (n - c).min(V::LANES);
        let [c_in, c_out] = self.group;
        let mut gathered = [0.0_f32; 16];
        let mut acc = v.splat(0.0);
        for tap in 0..g.taps() {
            let y = g.at(0, oy, tap / g.kernel[1]);
            let x = g.at(1, ox, tap % g.kernel[1]);
            if y < 0 || x < 0 || y as usize >= g.input[0] || x as usize >= g.input[1] {
                continue;
            }
            let pixel = &self.x.data[(y as usize * g.input[1] + x as usize) * self.x.ld..];
            for k in 0..c_in {
                for (l, to) in gathered.iter_mut().enumerate().take(lanes) {
                    *to = pixel[(c0 + c + l) / c_out * c_in + k];
                }
                let w = &self.panel[(tap * c_in + k) * 2 * V::LANES + c..][..V::LANES];
                // SAFETY: both have a register of values.
                unsafe { acc = v.fma(v.load(gathered.as_ptr()), v.load(w.as_ptr()), acc) };
            }
        }
        let e = &self.epilogue;
        // SAFETY: each slice has `lanes` values.
        unsafe {
            if let Some(bias) = e.bias {
                acc = v.add(acc, v.load_some(bias[c0 + c..][..lanes].as_ptr(), lanes));
            }
            if let Some(r) = e.residual {
                acc = v.add(acc, v.load_some(r.data[p * r.ld + c0 + c..][..lanes].as_ptr(), lanes));
            }
            acc = e.act.apply(v, acc);
            v.store_some(self.out.row(i)[c..][..lanes].as_mut_ptr(), acc, lanes);
            if !self.sums.is_empty() {
                let sums = self.sums[c..][..lanes].as_mut_ptr();
                v.store_some(sums, v.add(v.load_some(sums, lanes), acc), lanes);
            }
        }
    }
}
