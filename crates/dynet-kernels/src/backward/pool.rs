//! Pooling of a batch, forward and backward.

use std::ops::Range;

use crate::backward::team::Team;
use crate::geometry::Geometry;
use crate::vector::{Job, Vector};

/// The lines of an axis that the window of output line `p` covers.
fn covered(g: &Geometry, d: usize, p: usize) -> Range<usize> {
    let first = g.at(d, p, 0);
    let end = (first + g.kernel[d] as isize).clamp(0, g.input[d] as isize);
    first.clamp(0, end) as usize..end as usize
}

/// For each output pixel of an image: `each(output pixel, lines, columns)` of its window.
#[inline(always)]
fn windows(g: &Geometry, mut each: impl FnMut(usize, Range<usize>, Range<usize>)) {
    let [height, width] = g.output();
    for y in 0..height {
        let lines = covered(g, 0, y);
        for x in 0..width {
            each(y * width + x, lines.clone(), covered(g, 1, x));
        }
    }
}

fn sizes(g: &Geometry, channels: usize, x: usize, y: usize) -> [usize; 2] {
    let [input, output] = [g.input[0] * g.input[1], g.pixels()].map(|pixels| pixels * channels);
    let fits = input > 0 && output > 0 && x.is_multiple_of(input) && x / input * output == y;
    assert!(fits, "{x} and {y} values of {channels} channels, {g:?}");
    [input, output]
}

/// Channels that are compared together: a number known when compiling, so that they are in registers.
const TOGETHER: usize = 8;

/// The greatest values of a window and the pixels that have them first, `N` channels from `c` on.
#[inline(always)]
fn greatest<const N: usize>(
    x: &[f32],
    (width, channels, c): (usize, usize, usize),
    lines: &Range<usize>,
    columns: &Range<usize>,
) -> ([f32; N], [u32; N]) {
    let (mut best, mut at) = ([f32::NEG_INFINITY; N], [0; N]);
    for line in lines.clone() {
        for column in columns.clone() {
            let pixel = line * width + column;
            let row = &x[pixel * channels + c..][..N];
            for ((best, at), x) in best.iter_mut().zip(&mut at).zip(row) {
                let above = *x > *best;
                *best = if above { *x } else { *best };
                *at = if above { pixel as u32 } else { *at };
            }
        }
    }
    (best, at)
}

/// Max pooling of an image, forward and, where there are gradients `dy` and `dx`, back.
struct MaxPool<'a> {
    x: &'a [f32],
    g: &'a Geometry,
    channels: usize,
    way: Way<'a>,
}

enum Way<'a> {
    Forward(&'a mut [f32]),
    Back(&'a [f32], &'a mut [f32]),
}

impl MaxPool<'_> {
    #[inline(always)]
    fn channels<const N: usize>(&mut self, c: usize) {
        let (x, g, channels) = (self.x, self.g, self.channels);
        windows(g, |p, lines, columns| {
            let (best, at) = greatest::<N>(x, (g.input[1], channels, c), &lines, &columns);
            let start = p * channels + c;
            match &mut self.way {
                Way::Forward(y) => y[start..][..N].copy_from_slice(&best),
                Way::Back(dy, dx) => {
                    for (i, (at, dy)) in at.iter().zip(&dy[start..][..N]).enumerate() {
                        dx[*at as usize * channels + c + i] += dy;
                    }
                }
            }
        });
    }
}

impl Job for MaxPool<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, _: V) {
        let whole = self.channels / TOGETHER * TOGETHER;
        (0..whole).step_by(TOGETHER).for_each(|c| self.channels::<TOGETHER>(c));
        (whole..self.channels).for_each(|c| self.channels::<1>(c));
    }
}

/// Greatest value of each channel over a window; padding counts as minus infinity.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn max_pool(team: &mut Team, x: &[f32], g: &Geometry, channels: usize, y: &mut [f32]) {
    let [input, output] = sizes(g, channels, x.len(), y.len());
    let isa = team.isa;
    team.chunks(y, output, |i, y| {
        isa.run(MaxPool { x: &x[i * input..][..input], g, channels, way: Way::Forward(y) });
    });
}

/// The gradient of [`max_pool`]'s input, which goes to the first of the greatest values of a window.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn max_pool_backward(
    team: &mut Team,
    x: &[f32],
    g: &Geometry,
    channels: usize,
    dy: &[f32],
    dx: &mut [f32],
) {
    let [input, output] = sizes(g, channels, x.len(), dy.len());
    assert_eq!(x.len(), dx.len(), "gradient of the input");
    let isa = team.isa;
    team.chunks(dx, input, |i, dx| {
        dx.fill(0.0);
        let way = Way::Back(&dy[i * output..][..output], dx);
        isa.run(MaxPool { x: &x[i * input..][..input], g, channels, way });
    });
}

/// The mean of each channel over the rows of an image.
struct Means<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Means<'_> {
    #[inline(always)]
    fn channels<const N: usize>(&mut self, c: usize) {
        let channels = self.y.len();
        let share = channels as f32 / self.x.len() as f32;
        let mut sums = [0.0; N];
        for row in self.x.chunks_exact(channels) {
            sums.iter_mut().zip(&row[c..][..N]).for_each(|(sum, x)| *sum += x);
        }
        self.y[c..][..N].iter_mut().zip(sums).for_each(|(y, sum)| *y = sum * share);
    }
}

impl Job for Means<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, _: V) {
        // Four registers of sums, since each waits for itself.
        let (channels, wide) = (self.y.len(), 4 * TOGETHER);
        let [most, whole] = [wide, TOGETHER].map(|n| channels / n * n);
        (0..most).step_by(wide).for_each(|c| self.channels::<{ 4 * TOGETHER }>(c));
        (most..whole).step_by(TOGETHER).for_each(|c| self.channels::<TOGETHER>(c));
        (whole..channels).for_each(|c| self.channels::<1>(c));
    }
}

/// Writes or adds a row to all rows.
struct Spread<'a> {
    row: &'a [f32],
    rows: &'a mut [f32],
    adds: bool,
}

impl Job for Spread<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        for row in self.rows.chunks_exact_mut(self.row.len()) {
            if self.adds {
                row.iter_mut().zip(self.row).for_each(|(x, d)| *x += d);
            } else {
                row.copy_from_slice(self.row);
            }
        }
    }
}

/// Mean over the pixels of each image: `[images][pixels][channels]` to `[images][channels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn global_average(team: &mut Team, x: &[f32], channels: usize, y: &mut [f32]) {
    let images = y.len() / channels.max(1);
    assert!(images > 0 && x.len().is_multiple_of(y.len()), "{} values of {images} images", x.len());
    let image = x.len() / images;
    let isa = team.isa;
    team.chunks(y, channels, |i, y| isa.run(Means { x: &x[i * image..][..image], y }));
}

/// The gradient of [`global_average`]'s input; added to `dx` where `adds`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn global_average_backward(team: &mut Team, dy: &[f32], channels: usize, dx: &mut [f32], adds: bool) {
    let images = dy.len() / channels.max(1);
    assert!(images > 0 && dx.len().is_multiple_of(dy.len()), "{} values of {images} images", dx.len());
    let image = dx.len() / images;
    let share = channels as f32 / image as f32;
    let isa = team.isa;
    team.chunks(dx, image, |i, dx| {
        let shares: Vec<f32> = dy[i * channels..][..channels].iter().map(|d| d * share).collect();
        isa.run(Spread { row: &shares, rows: dx, adds });
    });
}
