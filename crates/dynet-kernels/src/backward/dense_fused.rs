//! The dense convolution of a batch with a kernel for each image, and the gradient of its input.
//!
//! A panel is fused for one image after the other while its experts are in cache; forward the coefficients are the
//! panel's columns, backward its rows.

use std::ops::Range;

use crate::backward::dense::{Block, Dense, product, sink};
use crate::backward::few_product::{Coefs, FewProduct, serves};
use crate::backward::fuse::{FuseColumns, FuseRows};
use crate::backward::pieces::{FUSE_ROWS, Pieces};
use crate::backward::team::{Raw, Team};
use crate::isa::Isa;

/// Rows of the sums of a part that wait for their places: 256 KiB.
const SCATTERED_ROWS: usize = 2048;

/// What a part of the way back works on.
struct Part<'a> {
    coefs: &'a [f32],
    dy: &'a [f32],
    dx: Raw,
    adds: bool,
    images: Range<usize>,
    /// Rows of sums that wait for their places.
    waiting: usize,
}

impl Dense<'_> {
    fn check_coefs(&self, coefs: &[f32]) {
        let expected = self.window.images * self.experts * self.c_out;
        assert_eq!(coefs.len(), expected, "coefficients of {} x {} channels", self.experts, self.c_out);
    }

    /// `out = x (*) sum_i eta_i w_i + bias`, each image with a kernel of its own.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn forward_fused(
        &self,
        team: &mut Team,
        coefs: &[f32],
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        self.check(x.len(), out.len());
        self.check_coefs(coefs);
        let (isa, n, experts) = (team.isa, self.c_out, self.experts);
        let (nr, rows, images) = (isa.nr(), self.window.outputs(), self.window.images);
        let panels = n.div_ceil(nr);
        let group = images_of_part(images, panels);
        let out = Raw::of(out);
        let groups = images.div_ceil(group);
        let pieces = Pieces::new([self.c_in, self.window.taps()], experts * nr, rows);
        let few = serves(isa, rows, experts);
        team.run(panels * groups, (pieces.rows() * experts + FUSE_ROWS) * nr, |part, scratch| {
            let (fused, packed) = scratch.split_at_mut(FUSE_ROWS * nr);
            let block = Block::new(part / groups, nr, n);
            let first = part % groups * group;
            // Rows of the panel outside, images inside: the rows' experts stay in cache, the sums wait in `out`.
            for channels in pieces.channels() {
                self.pack(isa, block, channels, packed);
                for [row, k0, k1] in pieces.of(channels, 0..self.window.taps()) {
                    let packed = &packed[row * experts * nr..];
                    if few {
                        let bias = bias.map(|b| &b[block.c0..]);
                        isa.run(FewProduct {
                            images: group.min(images - first),
                            pixels: rows,
                            source: self.source(x, first * rows),
                            k: [k0, k1],
                            packed: packed.as_ptr(),
                            coefs: Coefs {
                                first: coefs[first * experts * n + block.c0..].as_ptr(),
                                expert: n,
                                image: experts * n,
                                of_rows: false,
                            },
                            sink: sink(out.at(first * rows * n + block.c0), n, block, bias, k0 > 0),
                            step: rows * n,
                        });
                        continue;
                    }
                    for image in first..images.min(first + group) {
                        let coefs = coefs[image * experts * n + block.c0..].as_ptr();
                        let fused = &mut fused[..(k1 - k0) * nr];
                        isa.run(FuseColumns { packed, coefs, step: n, experts, cols: block.cols, fused });
                        let (row0, bias) = (image * rows, bias.map(|b| &b[block.c0..]));
                        let sink = sink(out.at(row0 * n + block.c0), n, block, bias, k0 > 0);
                        isa.run(product(rows, self.source(x, row0), [k0, k1], fused.as_ptr(), sink));
                    }
                }
            }
        });
    }

    /// [`Self::backward_input`] with a kernel for each image.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_input_fused(
        &self,
        team: &mut Team,
        coefs: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        adds: bool,
    ) {
        self.check(dx.len(), dy.len());
        self.check_coefs(coefs);
        let (isa, n, images, experts) = (team.isa, self.c_in, self.window.images, self.experts);
        let (nr, taps, inputs) = (isa.nr(), self.window.taps(), self.window.inputs());
        let panels = n.div_ceil(nr);
        let group = images_of_part(images, panels);
        let dx = Raw::of(dx);
        if self.window.classes.len() > 1 && group * inputs > SCATTERED_ROWS {
            return self.large_classes_fused(team, coefs, dy, (dx, adds), group);
        }
        let side = self.panels_side_by_side(isa);
        let sets = panels.div_ceil(side);
        let group = images_of_part(images, sets);
        let groups = images.div_ceil(group);
        let pieces = Pieces::new([self.c_out, taps], side * experts * nr, inputs);
        let waiting = if self.window.classes.len() == 1 { 0 } else { group * inputs };
        let packed_len = pieces.rows() * experts * nr;
        team.run(sets * groups, FUSE_ROWS * nr + side * (packed_len + waiting * nr), |part, scratch| {
            let (fused, rest) = scratch.split_at_mut(FUSE_ROWS * nr);
            let (sums, packed) = rest.split_at_mut(side * waiting * nr);
            let sums = Raw::of(sums);
            let (set, first) = (part / groups, part % groups * group);
            let blocks = (set * side..panels.min((set + 1) * side)).map(|p| Block::new(p, nr, n));
            let places = blocks
                .clone()
                .enumerate()
                .map(|(i, block)| (block, i * packed_len, sums.offset(i * waiting * nr)));
            let part = Part { coefs, dy, dx, adds, images: first..images.min(first + group), waiting };
            // As forward: rows of the panel outside, images inside. Sums of pixels that do not lie side by side wait.
            for channels in pieces.channels() {
                self.pack_side_by_side(isa, blocks.clone(), channels, (packed, packed_len));
                for (block, at, sums) in places.clone() {
                    self.piece_back(isa, &part, block, (pieces, channels), &packed[at..], (fused, sums));
                }
            }
            if waiting > 0 {
                for (block, _, sums) in places {
                    // SAFETY: the scratch is this part's own.
                    let sums = unsafe { sums.slice(0, waiting * nr) };
                    for (image, sums) in part.images.clone().zip(sums.chunks_exact(inputs * nr)) {
                        self.scatter((dx, adds), block, image, sums, nr);
                    }
                }
            }
        });
    }

    /// What packed channels of a panel give to the input of a part's images.
    fn piece_back(
        &self,
        isa: Isa,
        part: &Part<'_>,
        block: Block,
        (pieces, channels): (Pieces, [usize; 2]),
        packed: &[f32],
        (fused, sums): (&mut [f32], Raw),
    ) {
        let (nr, n, experts, inputs) = (isa.nr(), self.c_in, self.experts, self.window.inputs());
        let Part { coefs, dy, dx, adds, images, waiting } = part;
        let (mut tap0, mut pixel0) = (0, 0);
        for class in &self.window.classes {
            let pixels = class.pixels.len();
            for [row, k0, k1] in pieces.of(channels, tap0..tap0 + class.taps.len()) {
                let packed = &packed[row * experts * nr..];
                let place = |image: usize| match waiting {
                    0 => (dx.at(image * inputs * n + block.c0), n, *adds || k0 > 0),
                    _ => (sums.at(((image - images.start) * inputs + pixel0) * nr), nr, k0 > 0),
                };
                if serves(isa, pixels, experts) {
                    let (out, ld, adds) = place(images.start);
                    isa.run(FewProduct {
                        images: images.len(),
                        pixels,
                        source: self.class_source(class, dy, images.start * pixels),
                        k: [k0, k1],
                        packed: packed.as_ptr(),
                        coefs: Coefs {
                            first: coefs[images.start * experts * self.c_out..].as_ptr(),
                            expert: self.c_out,
                            image: experts * self.c_out,
                            of_rows: true,
                        },
                        sink: sink(out, ld, block, None, adds),
                        step: inputs * ld,
                    });
                    continue;
                }
                for image in images.clone() {
                    let fused = &mut fused[..(k1 - k0) * nr];
                    let coefs = &coefs[image * experts * self.c_out..][..experts * self.c_out];
                    isa.run(FuseRows { packed, first: k0, coefs, experts, fused });
                    let (out, ld, adds) = place(image);
                    let sink = sink(out, ld, block, None, adds);
                    let source = self.class_source(class, dy, image * pixels);
                    isa.run(product(pixels, source, [k0, k1], fused.as_ptr(), sink));
                }
            }
            (tap0, pixel0) = (tap0 + class.taps.len(), pixel0 + pixels);
        }
    }

    /// Puts sums `[input pixel in the order of the classes][nr]` of an image in their places; those of pixels that
    /// nobody read are zero.
    fn scatter(&self, (dx, adds): (Raw, bool), block: Block, image: usize, sums: &[f32], nr: usize) {
        let mut rows = sums.chunks_exact(nr);
        for class in &self.window.classes {
            for (pixel, sums) in class.pixels.iter().zip(&mut rows) {
                let at = (image * self.window.inputs() + *pixel as usize) * self.c_in + block.c0;
                // SAFETY: this part alone has the columns of the block of this image.
                let dx = unsafe { dx.slice(at, block.cols) };
                match (class.taps.is_empty(), adds) {
                    (true, true) => {}
                    (true, false) => dx.fill(0.0),
                    (false, true) => dx.iter_mut().zip(sums).for_each(|(x, y)| *x += y),
                    (false, false) => dx.copy_from_slice(&sums[..block.cols]),
                }
            }
        }
    }

    /// [`Self::backward_input_fused`] of large maps whose pixels fall into several classes: image by image.
    fn large_classes_fused(&self, team: &mut Team, coefs: &[f32], dy: &[f32], dx: (Raw, bool), group: usize) {
        let (isa, n, images, experts) = (team.isa, self.c_in, self.window.images, self.experts);
        let (nr, k) = (isa.nr(), self.c_out * self.window.taps());
        let panels = n.div_ceil(nr);
        let groups = images.div_ceil(group);
        let largest = self.window.classes.iter().map(|c| c.pixels.len()).max().unwrap_or(0);
        team.run(panels * groups, (k * experts + FUSE_ROWS + largest) * nr, |part, scratch| {
            let (fused, rest) = scratch.split_at_mut(FUSE_ROWS * nr);
            let (packed, rest) = rest.split_at_mut(k * experts * nr);
            let block = Block::new(part / groups, nr, n);
            self.pack_transposed(isa, block, [0, self.c_out], packed);
            let first = part % groups * group;
            for image in first..images.min(first + group) {
                let coefs = &coefs[image * experts * self.c_out..][..experts * self.c_out];
                let mut tap0 = 0;
                for class in &self.window.classes {
                    let rows = image * class.pixels.len()..(image + 1) * class.pixels.len();
                    let row0 = tap0 * self.c_out;
                    let fuse = |[k0, k]: [usize; 2]| {
                        let k1 = k.min(k0 + FUSE_ROWS);
                        let packed = &packed[(row0 + k0) * experts * nr..];
                        let fused = &mut fused[..(k1 - k0) * nr];
                        isa.run(FuseRows { packed, first: k0, coefs, experts, fused: &mut *fused });
                        (k1, fused.as_ptr())
                    };
                    self.class_rows(isa, class, dy, fuse, rows, block, dx, rest);
                    tap0 += class.taps.len();
                }
            }
        });
    }
}

/// Images that one part of a dynamic layer goes through with one panel: all of them where there are panels enough.
fn images_of_part(images: usize, panels: usize) -> usize {
    images.div_ceil(8usize.div_ceil(panels)).max(1)
}
