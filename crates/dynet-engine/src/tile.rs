//! One tile of a convolution: what an image brings to it, and which kernel computes it.

use std::sync::atomic::AtomicU64;

use dynet_kernels::winograd::{WinogradConv, winograd};
use dynet_kernels::{
    Coefs, Conv, Epilogue, GroupedConv, Isa, OfImage, Pixels, Residual, Stem, Sums, Tile, conv_ahead,
    conv_bf16, conv_images, grouped, stem,
};

use crate::ahead::Ahead;
use crate::expand::{expanded, summed};
use crate::plan::{Precision, conv_scratch_len};
use crate::pooled::pooled;
use crate::run::{Reader, coefficients};
use crate::step::{ConvStep, Head, Reading};

/// A convolution with the maps that it reads.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) isa: Isa,
    pub(crate) step: &'a ConvStep,
    /// The images `[n, c, h, w]`.
    pub(crate) planes: &'a [f32],
    pub(crate) images: usize,
    pub(crate) x: Reader<'a>,
    pub(crate) head: Option<Reader<'a>>,
    /// The coefficients of the convolution that makes `x`.
    pub(crate) expand_head: Option<Reader<'a>>,
    pub(crate) input_scale: Option<Reader<'a>>,
    pub(crate) residual: Option<Reader<'a>>,
    /// Whether a step before has made all coefficients.
    pub(crate) apart: bool,
    pub(crate) ahead: Option<&'a Ahead<'a>>,
    /// Receives the time of fusing.
    pub(crate) fusing: Option<&'a AtomicU64>,
}

impl<'a> Inputs<'a> {
    /// The planes of an image.
    fn planes(&self, image: usize) -> &'a [f32] {
        let len = self.planes.len() / self.images;
        &self.planes[image * len..][..len]
    }

    fn epilogue(&self, image: usize) -> Epilogue<'a> {
        let residual = match self.residual {
            Some(residual) => Some(Residual::Map(residual.pixels(image))),
            None => self.step.in_place.then_some(Residual::Output),
        };
        Epilogue { bias: Some(&self.step.bias), residual, act: self.step.act }
    }

    /// The coefficients of an image that a step before has made.
    pub(crate) fn coefs(&self, image: usize) -> Option<Coefs<'a>> {
        let (head, reader) = (self.step.head.as_ref()?, self.head?);
        Some(head.coefs(reader.vector(image), self.step.weights.nr()).timed(self.fusing))
    }

    /// The product of an image.
    pub(crate) fn product<'b>(&'b self, image: usize, coefs: Option<Coefs<'b>>) -> Conv<'b> {
        let step = self.step;
        let input_scale = self.input_scale.as_ref().map(|scale| scale.vector(image));
        let (x, taps, epilogue) = (self.x.pixels(image), step.reading.taps(), self.epilogue(image));
        Conv { x, taps, weights: &step.weights, coefs, groups: step.groups, input_scale, epilogue }
    }

    /// Weights of later steps for a tile to bring, at most `len` bytes.
    fn later(&self, len: usize) -> &'a [u8] {
        self.ahead.map_or(&[], |ahead| ahead.take(len))
    }

    /// Computes a tile of an image: of the convolution, or of what is pooled of it.
    pub(crate) fn tile(
        &self,
        image: usize,
        tile: &mut Tile<'_>,
        sums: Option<Sums<'_>>,
        scratch: &mut [f32],
    ) {
        match (&self.step.pool, self.step.summed) {
            (Some(pooling), _) => pooled(self, pooling, image, tile, sums, scratch),
            (None, Some(pixels)) => summed(self, pixels, image, tile, scratch),
            (None, None) => self.convolve(image, tile, sums, scratch),
        }
    }

    /// Computes a tile of the convolution.
    pub(crate) fn convolve(
        &self,
        image: usize,
        tile: &mut Tile<'_>,
        sums: Option<Sums<'_>>,
        scratch: &mut [f32],
    ) {
        let (isa, step) = (self.isa, self.step);
        let (scratch, rest) = scratch.split_at_mut(conv_scratch_len(step));
        let coefs = match (&step.head, self.head) {
            (Some(Head::Inline(gate, _)), Some(mean)) if !self.apart => {
                let first = tile.channel0() / step.weights.nr();
                let panels = tile.channels().div_ceil(step.weights.nr());
                let coefs = &mut rest[..panels * gate.len()];
                for (panel, to) in (first..).zip(coefs.chunks_exact_mut(gate.len())) {
                    let x = Pixels::new(mean.vector(image), gate.x.channels);
                    coefficients(isa, gate, panel, x, &mut [], to);
                }
                Some(Coefs::blocked(coefs, step.weights.nr(), first).timed(self.fusing))
            }
            _ => self.coefs(image),
        };
        let (weights, groups) = (&step.weights, step.groups);
        match &step.reading {
            Reading::Window(geometry) => {
                let (x, epilogue) = (self.x.pixels(image), self.epilogue(image));
                let window = GroupedConv { x, origin: [0, 0], geometry, weights, coefs, groups, epilogue };
                self.window(image, &window, scratch, tile, sums);
            }
            Reading::Winograd(geometry, side) => {
                let (x, epilogue) = (self.x.pixels(image), self.epilogue(image));
                let c = WinogradConv { x, geometry, side: *side, weights, coefs, epilogue };
                winograd(isa, &c, scratch, tile, sums);
            }
            Reading::Planes(geometry) => {
                let (planes, epilogue) = (self.planes(image), self.epilogue(image));
                stem(isa, &Stem { planes, geometry, weights, epilogue }, scratch, tile, sums);
            }
            Reading::Pointwise | Reading::Table(_) => {
                let c = self.product(image, coefs);
                self.multiply(&c, scratch, tile, sums);
            }
        }
    }

    /// Computes the same tile, the only one of its channels, of several images; with coefficients that a step before has made.
    pub(crate) fn tile_of_images(&self, images: &mut [Option<OfImage<'_>>], scratch: &mut [f32]) {
        let Some(OfImage { conv, out, .. }) = images.iter().flatten().next() else { return };
        let len = conv.ahead_bytes(self.isa, out.pixels() * images.iter().flatten().count(), out.channels());
        conv_images(self.isa, images, scratch, self.later(len));
    }

    /// A sliding window, over a map in memory or over one that it computes for itself.
    fn window(
        &self,
        image: usize,
        window: &GroupedConv<'_>,
        scratch: &mut [f32],
        tile: &mut Tile<'_>,
        sums: Option<Sums<'_>>,
    ) {
        let Some(e) = &self.step.expand else {
            return grouped(self.isa, window, scratch, tile, sums);
        };
        let expand = Inputs { step: e, head: self.expand_head, residual: None, input_scale: None, ..*self };
        let product = expand.product(image, expand.coefs(image));
        expanded(&expand, &product, window, scratch, tile, sums);
    }

    /// A product, which brings weights of later steps into the caches.
    pub(crate) fn multiply(
        &self,
        c: &Conv<'_>,
        scratch: &mut [f32],
        tile: &mut Tile<'_>,
        sums: Option<Sums<'_>>,
    ) {
        match self.step.precision {
            Precision::F32 => {
                let later = self.later(c.ahead_bytes(self.isa, tile.pixels(), tile.channels()));
                conv_ahead(self.isa, c, scratch, tile, sums, later);
            }
            Precision::Bf16 => {
                let later = self.later(c.bf16_ahead_bytes(tile.pixels(), tile.channels()));
                conv_bf16(self.isa, c, scratch, tile, sums, later);
            }
        }
    }
}
