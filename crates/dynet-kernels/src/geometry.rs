//! Which input pixels a convolution reads for each output pixel.

use std::ops::Range;

/// What lies outside the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Border {
    /// Zeros.
    #[default]
    Zeros,
    /// The image mirrored at its edge pixels, which are not repeated.
    Reflect,
    /// The edge pixels repeated.
    Replicate,
    /// The opposite side of the image.
    Circular,
}

impl Border {
    /// Where position `i` of a line of `len` pixels is read; `None` for a zero.
    pub(crate) fn source(self, i: isize, len: usize) -> Option<usize> {
        let n = len as isize;
        if (0..n).contains(&i) {
            return Some(i as usize);
        }
        let at = match self {
            Self::Zeros => return None,
            Self::Reflect if n == 1 => 0,
            Self::Reflect => {
                let i = i.rem_euclid(2 * (n - 1));
                if i < n { i } else { 2 * (n - 1) - i }
            }
            Self::Replicate => i.clamp(0, n - 1),
            Self::Circular => i.rem_euclid(n),
        };
        Some(at as usize)
    }
}

/// Sizes of a convolution's window over an image, all as `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Input height and width in pixels.
    pub input: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps from one output pixel to the next.
    pub stride: [usize; 2],
    /// Rows and columns added on each side.
    pub padding: [usize; 2],
    /// Spacing of the kernel's elements.
    pub dilation: [usize; 2],
}

impl Geometry {
    /// A square kernel with padding `k / 2`, no dilation.
    pub fn same(input: [usize; 2], k: usize, stride: usize) -> Self {
        let padding = [k / 2; 2];
        Self { input, kernel: [k; 2], stride: [stride; 2], padding, dilation: [1; 2] }
    }

    /// Output height and width; 0 where the kernel does not fit.
    pub fn output(&self) -> [usize; 2] {
        std::array::from_fn(|d| {
            let span = self.dilation[d] * (self.kernel[d] - 1) + 1;
            let padded = self.input[d] + 2 * self.padding[d];
            if padded < span { 0 } else { (padded - span) / self.stride[d] + 1 }
        })
    }

    /// Output pixels.
    pub fn pixels(&self) -> usize {
        let [h, w] = self.output();
        h * w
    }

    /// Elements of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether output pixel `p` reads input pixel `p` and no other.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// The input rows that some output rows read, those outside the image left out.
    pub fn rows_read(&self, rows: Range<usize>) -> Range<usize> {
        let last = self.at(0, rows.end.max(1) - 1, self.kernel[0] - 1) + 1;
        let clamp = |row: isize| row.clamp(0, self.input[0] as isize) as usize;
        let first = clamp(self.at(0, rows.start, 0));
        first..if rows.is_empty() { first } else { clamp(last).max(first) }
    }

    /// Where tap `t` of output pixel `p` reads along direction `d`, in pixels that may lie outside.
    pub(crate) fn at(&self, d: usize, p: usize, t: usize) -> isize {
        (p * self.stride[d] + t * self.dilation[d]) as isize - self.padding[d] as isize
    }
}

/// Stands in [`Taps`] for a pixel of zeros.
pub(crate) const ZERO: u32 = u32::MAX;

/// For each output pixel and tap the input pixel that is read: the convolution as an implicit product.
///
/// Made once for a layer; offsets count in pixels, so it serves any pixel stride.
#[derive(Clone, Debug)]
pub struct Taps {
    /// `[output pixels][taps]`.
    pub(crate) table: Vec<u32>,
    /// Segments of a row of the product.
    pub(crate) taps: usize,
    /// Values of a segment in pixels: 1, or a whole row of the kernel where that is contiguous.
    pub(crate) run: usize,
    /// One past the greatest input pixel that is read.
    pub(crate) bound: usize,
    /// The same through a map with its border, for windows that move by one pixel.
    pub(crate) bordered: Option<Bordered>,
}

/// A map with its border, over which a window moves by one pixel: output pixel `(y, x)` reads element `(ky, kx)` of the kernel at
/// place `(y + ky * dilation, x + kx * dilation)`.
#[derive(Clone, Debug)]
pub(crate) struct Bordered {
    /// `[rows][width]`: the input pixel at each place, [`ZERO`] for zeros.
    pub(crate) table: Vec<u32>,
    /// Places of a row.
    pub(crate) width: usize,
    /// Output pixels of a row, less than the places.
    pub(crate) pixels: usize,
    /// Places from the one where an output pixel starts to those of the elements of the kernel.
    pub(crate) elements: Vec<usize>,
}

impl Bordered {
    /// `None` where a window skips pixels, or where there is more border than map.
    fn new(g: &Geometry, border: Border) -> Option<Self> {
        let [height, width] = std::array::from_fn(|d| g.output()[d] + g.dilation[d] * (g.kernel[d] - 1));
        let most = 2 * (g.pixels() + g.input[0] * g.input[1]);
        if g.stride != [1, 1] || g.pixels() == 0 || height.checked_mul(width).is_none_or(|all| all > most) {
            return None;
        }
        let source = |d: usize, at: usize| border.source(g.at(d, at, 0), g.input[d]);
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let pixel =
            |(y, x)| source(0, y).zip(source(1, x)).map_or(ZERO, |(y, x)| (y * g.input[1] + x) as u32);
        let elements = (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx)));
        Some(Self {
            table: places.map(pixel).collect(),
            width,
            pixels: g.output()[1],
            elements: elements.map(|(ky, kx)| ky * g.dilation[0] * width + kx * g.dilation[1]).collect(),
        })
    }

    /// Rows of places that the outputs of some pixels, from and to, read; from the row of the first one on.
    pub(crate) fn rows(&self, [from, to]: [usize; 2]) -> usize {
        let below = self.elements.last().map_or(0, |last| last / self.width);
        (to - 1) / self.pixels - from / self.pixels + 1 + below
    }
}

impl Taps {
    /// One tap for each element of the kernel.
    pub fn new(g: &Geometry, border: Border) -> Self {
        Self { bordered: Bordered::new(g, border), ..Self::by_pixel(g, border) }
    }

    fn by_pixel(g: &Geometry, border: Border) -> Self {
        let [h, w] = g.output();
        let mut table = Vec::with_capacity(h * w * g.taps());
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                let row = border.source(g.at(0, y, ky), g.input[0]);
                let column = border.source(g.at(1, x, kx), g.input[1]);
                table.push(row.zip(column).map_or(ZERO, |(r, c)| (r * g.input[1] + c) as u32));
            }
        }
        Self::of(table, g.taps(), 1)
    }

    /// One tap for each row of the kernel, over an image that was given its border before (see
    /// [`bordered`](crate::copy::border)): for few input channels, whose pixels follow one another without a gap.
    ///
    /// # Panics
    /// If the geometry has padding left or a horizontal dilation.
    pub fn rows(g: &Geometry) -> Self {
        assert!(g.padding == [0, 0] && g.dilation[1] == 1, "rows of {g:?} are not contiguous");
        let [h, w] = g.output();
        let mut table = Vec::with_capacity(h * w * g.kernel[0]);
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let at = |ky| (g.at(0, y, ky) as usize * g.input[1] + g.at(1, x, 0) as usize) as u32;
            table.extend((0..g.kernel[0]).map(at));
        }
        Self::of(table, g.kernel[0], g.kernel[1])
    }

    fn of(table: Vec<u32>, taps: usize, run: usize) -> Self {
        let bound = table.iter().filter(|&&t| t != ZERO).map(|&t| t as usize + run).max().unwrap_or(0);
        Self { table, taps, run, bound, bordered: None }
    }

    /// Output pixels.
    pub fn pixels(&self) -> usize {
        self.table.len() / self.taps
    }

    /// Segments in which the inputs of an output pixel are read.
    pub fn segments(&self) -> usize {
        self.taps
    }

    /// Bytes that it takes.
    pub fn len_bytes(&self) -> usize {
        let bordered = self.bordered.as_ref().map_or(0, |bordered| bordered.table.len());
        (self.table.len() + bordered) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(border: Border, len: usize) -> Vec<Option<usize>> {
        (-3..len as isize + 3).map(|i| border.source(i, len)).collect()
    }

    #[test]
    fn borders_read_where_pytorch_reads() {
        let some = |xs: [usize; 10]| xs.map(Some).to_vec();
        assert_eq!(line(Border::Reflect, 4), some([3, 2, 1, 0, 1, 2, 3, 2, 1, 0]));
        assert_eq!(line(Border::Replicate, 4), some([0, 0, 0, 0, 1, 2, 3, 3, 3, 3]));
        assert_eq!(line(Border::Circular, 4), some([1, 2, 3, 0, 1, 2, 3, 0, 1, 2]));
        assert_eq!(line(Border::Zeros, 1), [None, None, None, Some(0), None, None, None]);
        assert_eq!(line(Border::Reflect, 1), [Some(0); 7]);
    }

    #[test]
    fn taps_of_a_corner_are_zeros_outside() {
        let taps = Taps::new(&Geometry::same([3, 3], 3, 2), Border::Zeros);
        assert_eq!((taps.pixels(), taps.bound), (4, 9));
        assert_eq!(taps.table[..9], [ZERO, ZERO, ZERO, ZERO, 0, 1, ZERO, 3, 4]);
    }
}
