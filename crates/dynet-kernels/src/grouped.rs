//! Convolutions whose groups are narrow: depthwise ones, and those of a few channels a group.

use crate::generic::fuse::{FusePanel, fuse};
use crate::generic::grouped::GroupedPanel;
use crate::geometry::Geometry;
use crate::isa::Isa;
use crate::panels::{Data, Panels};
use crate::shared::Tile;
use crate::sums::{SumRows, Sums};
use crate::view::{Coefs, Epilogue, Pixels};

/// A grouped convolution of one image, static or dynamic, with everything that its tiles share. Outside the image
/// are zeros; other borders are given to the image before, see [`border`](crate::copy::border).
///
/// # Shapes
/// Input `[h * w][ld]` with `groups * c_in` channels; weights `[experts][c_out][c_in][kh * kw]`, packed, `c_in` those
/// of one group; output `[output pixels][c_out]`.
#[derive(Clone, Copy, Debug)]
pub struct GroupedConv<'a> {
    /// The image, or a part of it that holds all that the tile reads.
    pub x: Pixels<'a>,
    /// First row of the image and first channel that `x` holds: `[0, 0]` for the whole image.
    pub origin: [usize; 2],
    /// Its window.
    pub geometry: &'a Geometry,
    /// Packed weights.
    pub weights: &'a Panels,
    /// Coefficients of a dynamic convolution; `None` adds up all fixed kernels, of which a static one has one.
    pub coefs: Option<Coefs<'a>>,
    /// Groups; all channels of a depthwise convolution.
    pub groups: usize,
    /// What happens before the store.
    pub epilogue: Epilogue<'a>,
}

impl GroupedConv<'_> {
    /// Values of scratch that [`grouped`] needs.
    pub fn scratch_len(weights: &Panels, _geometry: &Geometry) -> usize {
        weights.k() * weights.nr()
    }

    fn check(&self, isa: Isa, out: &Tile<'_>) {
        let (w, g) = (self.weights, self.geometry);
        let end = w.check_tile(isa, out);
        let pixels = out.check_rows(g.output());
        assert_eq!(w.n() % self.groups, 0, "{} output channels in {} groups", w.n(), self.groups);
        assert_eq!(w.k() % g.taps(), 0, "{} rows of weights for {} taps", w.k(), g.taps());
        self.check_input(out, pixels / g.output()[1]);
        if let Some(coefs) = self.coefs {
            coefs.check(w.experts(), w.n());
        }
        self.epilogue.check(pixels, end);
    }

    /// Input channels that a tile reads, from and to.
    fn inputs(&self, out: &Tile<'_>) -> [usize; 2] {
        let (inputs, outputs) = (self.weights.k() / self.geometry.taps(), self.weights.n() / self.groups);
        let last = out.channel0() + out.channels() - 1;
        [out.channel0() / outputs * inputs, (last / outputs + 1) * inputs]
    }

    /// Whether the part of the image that there is holds what a tile reads, whose last row comes before `end`.
    fn check_input(&self, out: &Tile<'_>, end: usize) {
        let (g, [row, channel]) = (self.geometry, self.origin);
        if out.pixels() == 0 || out.channels() == 0 {
            return;
        }
        let rows = g.rows_read(out.pixel0() / g.output()[1]..end);
        let [first, last] = self.inputs(out);
        let inside = (rows.is_empty() || row <= rows.start) && channel <= first;
        assert!(
            inside,
            "rows {rows:?}, channels {first}..{last} are read of an input from {row}, {channel} on"
        );
        self.x.check(rows.end.saturating_sub(row) * g.input[1], last - channel);
    }
}

/// Computes one tile of a grouped convolution, which must be whole rows of the output image.
///
/// `sums` receives the sums over the tile's pixels of what is stored: one, or one for each two rows.
///
/// # Panics
/// If the sizes do not fit each other; nothing has been written then.
///
/// # Accuracy
/// One rounding per term, in the order of `k`. Bits do not depend on the tiles.
pub fn grouped(
    isa: Isa,
    c: &GroupedConv<'_>,
    scratch: &mut [f32],
    out: &mut Tile<'_>,
    mut sums: Option<Sums<'_>>,
) {
    c.check(isa, out);
    if let Some(sums) = &mut sums {
        // Rows are computed two at a time.
        sums.start(out, 2 * c.geometry.output()[1]);
    }
    if out.pixels() == 0 {
        return;
    }
    let w = c.weights;
    let (nr, k) = (w.nr(), w.k());
    let first = out.channel0() / nr;
    for panel in first..first + out.channels().div_ceil(nr) {
        let start = (panel - first) * nr;
        let mut tile = out.columns(start, nr.min(out.channels() - start));
        let packed = match &w.data {
            Data::F32(data) if w.experts() == 1 && c.coefs.is_none() => &data[panel * k * nr..][..k * nr],
            _ => {
                let (rows, coefs) = ([0, k], c.coefs);
                fuse(
                    isa,
                    FusePanel { panels: w, panel, rows, coefs, row_scale: None, ahead: 0, dynamic: scratch },
                );
                &scratch[..k * nr]
            }
        };
        isa.run(c.panel(packed, &mut tile, SumRows::of(&mut sums, start)));
    }
}

impl GroupedConv<'_> {
    /// The job of a checked tile of one panel `[k][nr]`.
    fn panel(&self, panel: &[f32], tile: &mut Tile<'_>, sums: SumRows) -> GroupedPanel<'_> {
        let sums_ld = sums.step(2 * self.geometry.output()[1], tile.pixels());
        let (g, w) = (self.geometry, self.weights);
        let width = g.output()[1];
        let (pixel0, channel0) = (tile.pixel0(), tile.channel0());
        let c_in = w.k() / g.taps();
        let (residual, residual_ld) = self.epilogue.residual_of(tile);
        GroupedPanel {
            geometry: g,
            // Where the whole image would start: addresses outside of `x` are never read.
            x: self.x.data.as_ptr().wrapping_sub(self.origin[0] * g.input[1] * self.x.ld + self.origin[1]),
            x_ld: self.x.ld,
            group: [c_in, w.n() / self.groups],
            inputs: self.inputs(tile)[1],
            panel: panel.as_ptr(),
            channel0,
            cols: tile.channels(),
            rows: [pixel0 / width, (pixel0 + tile.pixels()) / width],
            out_ld: tile.ld(),
            bias: self.epilogue.bias_of(tile),
            residual,
            residual_ld,
            act: self.epilogue.act,
            sums: sums.at,
            sums_ld,
            out: tile.as_mut_ptr(),
        }
    }
}
