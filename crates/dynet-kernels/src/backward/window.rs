//! Which pixels a convolution of a batch reads, forward and backward, as tables.

use crate::geometry::{Border, Geometry, Taps, ZERO};

/// The window of a convolution over a batch: pixels that each output pixel reads, and output pixels that each input
/// pixel was read by.
///
/// Pixels are counted through the batch. With strides above 1 the input pixels fall into classes that meet different
/// elements of the kernel; nothing is multiplied by the zeros between them.
#[derive(Debug)]
pub struct Window {
    pub(crate) images: usize,
    pub(crate) geometry: Geometry,
    /// `[images * output pixels][taps]`; empty where output pixel `p` reads input pixel `p` alone.
    pub(crate) table: Vec<u32>,
    pub(crate) classes: Vec<Class>,
}

/// Input pixels that meet the same elements of the kernel.
#[derive(Debug)]
pub(crate) struct Class {
    /// Elements of the kernel.
    pub(crate) taps: Vec<usize>,
    /// Pixels of one image.
    pub(crate) pixels: Vec<u32>,
    /// `[images * pixels][taps]` output pixels; empty where input pixel `p` was read by output pixel `p` alone.
    pub(crate) table: Vec<u32>,
}

impl Window {
    /// The window of `images` images, zeros outside.
    ///
    /// # Panics
    /// If the batch has 2^32 pixels or more.
    pub fn new(geometry: &Geometry, images: usize) -> Self {
        let g = *geometry;
        let (outputs, inputs) = (g.pixels(), g.input[0] * g.input[1]);
        assert!((images * outputs.max(inputs)) < ZERO as usize, "{images} images of {inputs} pixels");
        let repeat = |one: &[u32], step: usize| -> Vec<u32> {
            let shift = |i: usize| move |t: &u32| if *t == ZERO { ZERO } else { *t + (i * step) as u32 };
            (0..images).flat_map(|i| one.iter().map(shift(i))).collect()
        };
        let table =
            if g.is_pointwise() { Vec::new() } else { repeat(&Taps::new(&g, Border::Zeros).table, inputs) };
        let phases = (0..g.stride[0]).flat_map(|y| (0..g.stride[1]).map(move |x| [y, x]));
        let classes = phases.map(|phase| {
            let (taps, pixels, one) = class(&g, phase);
            let table = if g.is_pointwise() { Vec::new() } else { repeat(&one, outputs) };
            Class { taps, pixels, table }
        });
        Self { images, geometry: g, table, classes: classes.collect() }
    }

    /// Images of the batch.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Sizes of one image.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Output pixels of an image.
    pub fn outputs(&self) -> usize {
        self.geometry.pixels()
    }

    /// Input pixels of an image.
    pub fn inputs(&self) -> usize {
        self.geometry.input[0] * self.geometry.input[1]
    }

    /// Elements of the kernel of an image.
    pub fn taps(&self) -> usize {
        self.geometry.taps()
    }

    /// Pairs of an output pixel of an image and an element of the kernel that lies inside the image.
    pub fn met(&self) -> usize {
        match self.table.is_empty() {
            true => self.outputs(),
            false => self.table[..self.outputs() * self.taps()].iter().filter(|t| **t != ZERO).count(),
        }
    }
}

/// Elements of the kernel, pixels, and table of one image of the class of pixels `phase + i * stride`.
fn class(g: &Geometry, phase: [usize; 2]) -> (Vec<usize>, Vec<u32>, Vec<u32>) {
    let meets =
        |d: usize, t: usize| (phase[d] + g.padding[d]) % g.stride[d] == t * g.dilation[d] % g.stride[d];
    let taps: Vec<usize> =
        (0..g.taps()).filter(|t| meets(0, t / g.kernel[1]) && meets(1, t % g.kernel[1])).collect();
    let output = g.output();
    // The output line that read input line `p` with element `t`.
    let reader = |d: usize, p: usize, t: usize| {
        let at = (p + g.padding[d]).checked_sub(t * g.dilation[d])?;
        (at / g.stride[d] < output[d]).then_some(at / g.stride[d])
    };
    let (mut pixels, mut table) = (Vec::new(), Vec::new());
    for y in (phase[0]..g.input[0]).step_by(g.stride[0]) {
        for x in (phase[1]..g.input[1]).step_by(g.stride[1]) {
            pixels.push((y * g.input[1] + x) as u32);
            for t in &taps {
                let at = reader(0, y, t / g.kernel[1]).zip(reader(1, x, t % g.kernel[1]));
                table.push(at.map_or(ZERO, |(r, c)| (r * output[1] + c) as u32));
            }
        }
    }
    (taps, pixels, table)
}
