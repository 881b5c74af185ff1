//! Dense convolutions and fully connected layers: the product of pixels with packed, fused weights.

use crate::activation::Activation;
use crate::generic::fuse::{FuseBeside, FusePanel, fuse};
use crate::generic::gemm::{Ahead, FEW_AHEAD, FEW_ROWS, PACE, PanelProduct};
use crate::generic::matvec::MatVec;
use crate::generic::operands::{Sink, Source};
use crate::geometry::Taps;
use crate::isa::Isa;
use crate::panels::{Data, Panels, Storage};
use crate::shared::Tile;
use crate::sums::{SumRows, Sums};
use crate::vector::MAX_LANES;
use crate::view::{Coefs, Epilogue, Pixels, Residual};

/// Rows of a panel that are fused at a time: 256 x 32 values are 32 KiB, which the first-level cache hands back while
/// the next rows' experts (128 KiB for K = 4) come into the second-level one.
const CHUNK: usize = 256;

/// With more pixels than this the fusing of a panel does not count, and cutting it would: each cut costs a store and
/// a load of all sums.
const CHUNK_PIXELS: usize = 256;

/// Most bytes of fixed kernels that several images fuse one after the other, in a second-level cache.
const SHARED_BYTES: usize = 512 << 10;

/// Most rows that are fused while those before them are multiplied, which both stay in the second-level cache.
const BESIDE_ROWS: usize = 1024;
/// Most pixels for which that wins. With 196 (14 x 14, resnet50, K = 4) fixed kernels come in time anyway, and layers took 5 % longer.
const BESIDE_PIXELS: usize = 112;
/// Most fixed kernels of which a product fuses rows on the way.
const BESIDE_EXPERTS: usize = 16;

/// A dense convolution of one image, static or dynamic, with everything that its tiles share.
///
/// # Shapes
/// Input `[pixels][ld]`; weights `[experts][c_out][c_in / groups][taps]`, packed; output `[output pixels][c_out]`.
/// `weights.k()` = taps x values read per tap.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// The image.
    pub x: Pixels<'a>,
    /// Which pixels are read; `None` where output pixel `p` reads input pixel `p` alone (1x1 kernels of stride 1,
    /// fully connected layers, whose images are the pixels).
    pub taps: Option<&'a Taps>,
    /// Packed weights.
    pub weights: &'a Panels,
    /// Coefficients of a dynamic convolution; `None` adds up all fixed kernels, of which a static one has one.
    pub coefs: Option<Coefs<'a>>,
    /// Groups of channels; the output channels of a group must be whole panels unless there is one group.
    pub groups: usize,
    /// Factors of the input's channels (of a group), multiplied into the fused weights: squeeze-and-excitation for
    /// the price of one multiplication a weight.
    pub input_scale: Option<&'a [f32]>,
    /// What happens before the store.
    pub epilogue: Epilogue<'a>,
}

impl Conv<'_> {
    /// Values of scratch that [`conv`] needs: a panel, and the rows behind it that are fused meanwhile.
    pub fn scratch_len(weights: &Panels) -> usize {
        (weights.k() + weights.k().min(BESIDE_ROWS)) * weights.nr()
    }

    /// Whether tiles of `pixels` pixels are computed in several pieces, whose sums so far lie in the output; `fused`: the weights
    /// are not multiplied as they lie. With [`Residual::Output`] there is one piece, which weights of many rows are too large for.
    pub fn in_pieces(weights: &Panels, fused: bool, pixels: usize) -> bool {
        fused && pixels <= CHUNK_PIXELS && weights.k() > CHUNK
    }

    /// Bytes of later memory that [`conv_ahead`] asks for during a tile of `pixels` pixels and `channels` channels,
    /// beside the rest of its own weights, which it asks for first.
    pub fn ahead_bytes(&self, isa: Isa, pixels: usize, channels: usize) -> usize {
        let (w, panels) = (self.weights, channels.div_ceil(self.weights.nr()));
        let all = pixels.div_ceil(isa.mr()) * panels * w.k() * PACE;
        all.saturating_sub(panels * (w.len_bytes() / w.count()))
    }

    pub(crate) fn check(&self, isa: Isa, out: &Tile<'_>) {
        let w = self.weights;
        let end = w.check_tile(isa, out);
        let per_group = w.n() / self.groups;
        let whole =
            self.groups == 1 || (per_group * self.groups == w.n() && per_group.is_multiple_of(w.nr()));
        assert!(whole, "{} groups of {} channels are no whole panels of {}", self.groups, w.n(), w.nr());
        let pixels = out.pixel0() + out.pixels();
        let before = (self.groups - 1) * self.group_inputs();
        match self.taps {
            None => self.x.check(pixels, before + w.k()),
            Some(taps) => {
                assert!(
                    pixels <= taps.pixels(),
                    "output pixels up to {pixels}, the geometry has {}",
                    taps.pixels()
                );
                assert!(w.k().is_multiple_of(taps.taps), "{} rows of weights for {} taps", w.k(), taps.taps);
                let segment = w.k() / taps.taps;
                // The pixels of a run must follow one another without a gap.
                let gapless = taps.run == 1 || (self.groups == 1 && self.x.ld * taps.run == segment);
                assert!(gapless, "kernel rows of {segment} values, pixels of {}", self.x.ld);
                self.x.check(taps.bound, before + segment / taps.run);
            }
        }
        if let Some(coefs) = self.coefs {
            coefs.check(w.experts(), w.n());
        }
        if let Some(scale) = self.input_scale {
            assert!(
                !scale.is_empty() && w.k().is_multiple_of(scale.len()),
                "{} factors for {} rows of weights",
                scale.len(),
                w.k()
            );
            assert_eq!(self.groups, 1, "input factors of grouped convolutions");
        }
        self.epilogue.check(pixels, end);
    }

    /// Input channels of a group.
    fn group_inputs(&self) -> usize {
        self.taps.map_or(self.weights.k(), |t| self.weights.k() / t.taps)
    }

    /// Whether the packed weights are multiplied as they lie.
    fn is_plain(&self) -> bool {
        let w = self.weights;
        w.storage() == Storage::F32 && w.experts() == 1 && self.coefs.is_none() && self.input_scale.is_none()
    }
}

/// Computes one tile of a convolution: fuses each of its panels into `scratch`, then multiplies all its pixels
/// with it; `(sum_i eta_i w_i) (*) x` of Eq. 2.
///
/// `sums` receives the sums over the tile's pixels of what is stored.
///
/// # Panics
/// If the sizes do not fit each other; nothing has been written then.
///
/// # Accuracy
/// One rounding per term, in the order of `k`. Bits do not depend on the tiles.
pub fn conv(isa: Isa, c: &Conv<'_>, scratch: &mut [f32], out: &mut Tile<'_>, sums: Option<Sums<'_>>) {
    conv_ahead(isa, c, scratch, out, sums, &[]);
}

/// [`conv`], which brings memory that somebody reads later into the caches while it multiplies: up to
/// [`Conv::ahead_bytes`] of it for nothing.
///
/// # Panics
/// As [`conv`].
pub fn conv_ahead(
    isa: Isa,
    c: &Conv<'_>,
    scratch: &mut [f32],
    out: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
    later: &[u8],
) {
    let mut one = [Some(OfImage { conv: *c, out: out.reborrow(), sums })];
    conv_images(isa, &mut one, scratch, later);
}

/// One image's part in a tile that several images compute together.
#[derive(Debug)]
pub struct OfImage<'a> {
    /// The layer, as this image sees it.
    pub conv: Conv<'a>,
    /// Its tile.
    pub out: Tile<'a>,
    /// Receives the sums over the tile's pixels of what is stored.
    pub sums: Option<Sums<'a>>,
}

/// [`conv_ahead`] for the same tile of several images, `None` for no image. Some rows of all panels of the tile are fused and
/// multiplied for one image after the other: their fixed kernels come from memory once, for the other images from the second-level cache.
///
/// # Panics
/// As [`conv`], or if the images have other weights or tiles than the first of them; nothing has been written then.
///
/// # Accuracy
/// An image's bits are those of [`conv`].
pub fn conv_images(isa: Isa, images: &mut [Option<OfImage<'_>>], scratch: &mut [f32], later: &[u8]) {
    let count = images.iter().flatten().count();
    let Some(OfImage { conv: c, out, .. }) = images.iter().flatten().next() else { return };
    let (w, place) = (c.weights, out.place());
    let [_, pixels, first, channels] = place;
    assert!(!matches!(w.data, Data::Pairs(..)), "weights of another precision");
    let chunk = c.chunk(pixels, if count > 1 { channels.div_ceil(w.nr()) } else { 1 });
    for OfImage { conv, out, .. } in images.iter().flatten() {
        conv.check(isa, out);
        assert!(std::ptr::eq(conv.weights, w) && out.place() == place, "images of other weights or tiles");
    }
    for OfImage { out, sums, .. } in images.iter_mut().flatten() {
        sums.iter_mut().for_each(|sums| sums.start(out, 1));
    }
    if pixels == 0 {
        return;
    }
    if let (1, 1, Some(OfImage { conv, out, sums })) = (count, pixels, images.iter_mut().flatten().next())
        && conv.is_matvec()
    {
        return isa.run(conv.matvec(out, SumRows::of(sums, 0)));
    }
    let (nr, k, panels) = (w.nr(), w.k(), channels.div_ceil(w.nr()));
    if let (1, Some(OfImage { conv, out, sums })) = (count, images.iter_mut().flatten().next()) {
        return conv.one_image(isa, (out, sums), chunk, scratch, later);
    }
    let std::ops::Range { start, end } = later.as_ptr_range();
    let mut later = [start, end];
    for from in (0..k).step_by(chunk) {
        let (rows, next) = ([from, (from + chunk).min(k)], [chunk, panels]);
        for (i, OfImage { conv, out, sums }) in images.iter_mut().flatten().enumerate() {
            for at in 0..panels {
                let part = Part { panel: first / nr + at, rows, fused: 0, next, image: [i, count] };
                let mut tile = out.columns(at * nr, nr.min(channels - at * nr));
                let ahead =
                    conv.part(isa, &part, (&mut tile, SumRows::of(sums, at * nr)), scratch, (None, later));
                later = ahead.rest();
            }
        }
    }
}

/// Some rows of a panel.
struct Part {
    panel: usize,
    rows: [usize; 2],
    /// Rows of them that have been fused.
    fused: usize,
    /// What is read next: as many further rows, or the first ones as many panels on.
    next: [usize; 2],
    /// Which image of how many, each of which asks for its share of what is read next.
    image: [usize; 2],
}

impl Conv<'_> {
    /// A tile of one image, a panel after the other: what comes next follows in memory. While `chunk` rows are multiplied, the
    /// next ones are fused into the other half of the scratch.
    fn one_image(
        &self,
        isa: Isa,
        (out, sums): (&mut Tile<'_>, &mut Option<Sums<'_>>),
        chunk: usize,
        scratch: &mut [f32],
        later: &[u8],
    ) {
        let (w, [_, pixels, first, channels]) = (self.weights, out.place());
        let (nr, k) = (w.nr(), w.k());
        let beside = isa.fuses()
            && (FEW_ROWS + 1..=BESIDE_PIXELS).contains(&pixels)
            && chunk <= BESIDE_ROWS
            && !self.is_plain();
        let (mut now, mut then) = scratch.split_at_mut((chunk * nr).min(scratch.len()));
        let mut coefs = [0.0; BESIDE_EXPERTS * 2 * MAX_LANES];
        let std::ops::Range { start, end } = later.as_ptr_range();
        let (mut later, mut fused) = ([start, end], 0);
        let panels =
            (0..channels.div_ceil(nr)).flat_map(|p| (0..k).step_by(chunk).map(move |from| (p, from)));
        let mut parts = panels.map(|(at, from)| (at, [from, (from + chunk).min(k)])).peekable();
        while let Some((at, rows)) = parts.next() {
            let part = Part { panel: first / nr + at, rows, fused, next: [chunk, 1], image: [0, 1] };
            let beside = match parts.peek() {
                Some(&(at, next)) if beside => {
                    let mut job = self.fuse_panel(first / nr + at, next, then);
                    let steps = [pixels.div_ceil(isa.mr()), rows[1] - rows[0]];
                    FuseBeside::new(isa, &mut job, steps, &mut coefs)
                }
                _ => None,
            };
            let mut tile = out.columns(at * nr, nr.min(channels - at * nr));
            let ahead = self.part(isa, &part, (&mut tile, SumRows::of(sums, at * nr)), now, (beside, later));
            (fused, later) = (ahead.fuse.map_or(0, |beside| beside.rows()), ahead.rest());
            if beside.is_some() {
                (now, then) = (then, now);
            }
        }
    }

    /// The job that fuses some rows of a panel.
    fn fuse_panel<'s>(&'s self, panel: usize, rows: [usize; 2], dynamic: &'s mut [f32]) -> FusePanel<'s> {
        let (panels, coefs, row_scale) = (self.weights, self.coefs, self.input_scale);
        FusePanel { panels, panel, rows, coefs, row_scale, ahead: 0, dynamic }
    }

    /// Fuses a part of the weights and adds its product to a checked tile of its panel, while it fuses others; returns how far that
    /// came, and what of `later` is still to be asked for.
    fn part(
        &self,
        isa: Isa,
        part: &Part,
        (tile, sums): (&mut Tile<'_>, SumRows),
        scratch: &mut [f32],
        (beside, later): (Option<FuseBeside>, [*const u8; 2]),
    ) -> Ahead {
        let (w, &Part { panel, rows, fused, next: [chunk, group], image: [i, count] }) = (self.weights, part);
        let (nr, k) = (w.nr(), w.k());
        let few = tile.pixels() <= FEW_ROWS;
        let packed = match &w.data {
            Data::F32(data) if self.is_plain() => {
                &data[(panel * k + rows[0]) * nr..(panel * k + rows[1]) * nr]
            }
            _ => {
                let ahead = if few && i == 0 { FEW_AHEAD } else { 0 };
                let rest = [rows[0] + fused, rows[1]];
                if rest[0] < rest[1] {
                    let job = self.fuse_panel(panel, rest, &mut scratch[fused * nr..]);
                    fuse(isa, FusePanel { ahead, ..job });
                }
                &scratch[..(rows[1] - rows[0]) * nr]
            }
        };
        let ahead = if few && self.is_plain() {
            Ahead::of_few_rows(w.bytes(panel, rows), nr * w.value_bytes())
        } else {
            let own = match rows[1] == k {
                _ if beside.is_some() => [packed.as_ptr().cast(); 2],
                false => w.bytes(panel, [rows[1], (rows[1] + chunk).min(k)]),
                true if panel + group < w.count() => w.bytes(panel + group, [0, chunk.min(k)]),
                true => [packed.as_ptr().cast(); 2],
            };
            let len = own[1] as usize - own[0] as usize;
            let own = [i, i + 1].map(|i| own[0].wrapping_add(len * i / count));
            Ahead::new(own).during(tile.pixels().div_ceil(isa.mr()) * (rows[1] - rows[0]))
        };
        let mut ahead = ahead.then(later);
        ahead.fuse = beside;
        isa.run(self.product((packed, rows), ahead, tile, sums))
    }

    /// The product of a checked tile with a panel `[k][nr]`.
    fn product(
        &self,
        (panel, k): (&[f32], [usize; 2]),
        ahead: Ahead,
        tile: &mut Tile<'_>,
        sums: SumRows,
    ) -> PanelProduct {
        let (source, _) = self.source(tile);
        let mut sink = self.sink(tile, sums);
        sink.resume = k[0] > 0;
        if k[1] < self.weights.k() {
            // Sums so far, as they are.
            sink = Sink { residual: std::ptr::null(), act: Activation::None, sums: SumRows::NONE, ..sink };
        }
        PanelProduct { rows: tile.pixels(), source, k, panel: panel.as_ptr(), sink, ahead }
    }

    /// What a checked tile of one group reads, and which group that is.
    pub(crate) fn source(&self, tile: &Tile<'_>) -> (Source, usize) {
        let group = tile.channel0() / (self.weights.n() / self.groups);
        let pixel0 = tile.pixel0();
        let x = &self.x.data[group * self.group_inputs()..];
        let (base, table, taps) = match self.taps {
            None => (x[pixel0 * self.x.ld..].as_ptr(), std::ptr::null(), 1),
            Some(t) => (x.as_ptr(), t.table[pixel0 * t.taps..].as_ptr(), t.taps),
        };
        (Source { base, ld: self.x.ld, table, taps, len: self.weights.k() / taps }, group)
    }

    /// Where the results of a checked tile go.
    pub(crate) fn sink(&self, tile: &mut Tile<'_>, sums: SumRows) -> Sink {
        Sink::new(&self.epilogue, tile, sums)
    }

    /// Rows of `panels` panels that are fused and multiplied at a time.
    fn chunk(&self, pixels: usize, panels: usize) -> usize {
        let (w, k) = (self.weights, self.weights.k());
        // Sums so far would take the place of what is added to them.
        let added = matches!(self.epilogue.residual, Some(Residual::Output));
        if added || self.is_plain() || pixels > CHUNK_PIXELS {
            return k;
        }
        let row_bytes = panels * w.experts() * w.nr() * w.value_bytes();
        let most = if panels > 1 { (SHARED_BYTES / row_bytes).clamp(1, CHUNK) } else { CHUNK };
        k.div_ceil(k.div_ceil(most))
    }

    /// Whether a single pixel is multiplied with the weights as they are stored.
    fn is_matvec(&self) -> bool {
        let plain = self.coefs.is_none() && self.input_scale.is_none();
        plain && self.taps.is_none() && self.groups == 1 && self.weights.experts() == 1
    }

    /// The job of a checked tile of one pixel.
    fn matvec(&self, tile: &mut Tile<'_>, sums: SumRows) -> MatVec<'_> {
        let x = self.x.data[tile.pixel0() * self.x.ld..].as_ptr();
        let first = tile.channel0() / self.weights.nr();
        MatVec { x, panels: self.weights, first, sink: self.sink(tile, sums) }
    }
}
