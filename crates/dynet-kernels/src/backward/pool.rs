//! Pooling of a batch, forward and backward.

use crate::backward::team::Team;
use crate::geometry::Geometry;

/// The lines of an axis that the window of output line `p` covers.
fn covered(g: &Geometry, d: usize, p: usize) -> std::ops::Range<usize> {
    let first = g.at(d, p, 0);
    let end = (first + g.kernel[d] as isize).clamp(0, g.input[d] as isize);
    first.clamp(0, end) as usize..end as usize
}

/// For each output pixel of an image: `each(output pixel, the input pixels of its window)`.
fn windows(g: &Geometry, mut each: impl FnMut(usize, &mut dyn Iterator<Item = usize>)) {
    let [height, width] = g.output();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let columns = covered(g, 1, x);
        let mut pixels = covered(g, 0, y).flat_map(|r| columns.clone().map(move |c| r * g.input[1] + c));
        each(y * width + x, &mut pixels);
    }
}

fn sizes(g: &Geometry, channels: usize, x: usize, y: usize) -> [usize; 2] {
    let [input, output] = [g.input[0] * g.input[1], g.pixels()].map(|pixels| pixels * channels);
    let fits = input > 0 && output > 0 && x.is_multiple_of(input) && x / input * output == y;
    assert!(fits, "{x} and {y} values of {channels} channels, {g:?}");
    [input, output]
}

/// Greatest value of each channel over a window; padding counts as minus infinity.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn max_pool(team: &mut Team, x: &[f32], g: &Geometry, channels: usize, y: &mut [f32]) {
    let [input, output] = sizes(g, channels, x.len(), y.len());
    team.chunks(y, output, |i, y| {
        let x = &x[i * input..][..input];
        windows(g, |p, pixels| {
            let best = &mut y[p * channels..][..channels];
            best.fill(f32::NEG_INFINITY);
            for pixel in pixels {
                let row = &x[pixel * channels..][..channels];
                for (best, x) in best.iter_mut().zip(row) {
                    *best = if *x > *best { *x } else { *best };
                }
            }
        });
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
    team.chunks(dx, input, |i, dx| {
        let (x, dy) = (&x[i * input..][..input], &dy[i * output..][..output]);
        dx.fill(0.0);
        let (mut best, mut at) = (vec![0.0; channels], vec![0_u32; channels]);
        windows(g, |p, pixels| {
            best.fill(f32::NEG_INFINITY);
            for pixel in pixels {
                let row = &x[pixel * channels..][..channels];
                for ((best, at), x) in best.iter_mut().zip(&mut at).zip(row) {
                    let above = *x > *best;
                    *best = if above { *x } else { *best };
                    *at = if above { pixel as u32 } else { *at };
                }
            }
            for (c, (at, dy)) in at.iter().zip(&dy[p * channels..]).enumerate() {
                dx[*at as usize * channels + c] += dy;
            }
        });
    });
}

/// Mean over the pixels of each image: `[images][pixels][channels]` to `[images][channels]`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn global_average(team: &mut Team, x: &[f32], channels: usize, y: &mut [f32]) {
    let images = y.len() / channels.max(1);
    assert!(images > 0 && x.len().is_multiple_of(y.len()), "{} values of {images} images", x.len());
    let image = x.len() / images;
    let share = channels as f32 / image as f32;
    team.chunks(y, channels, |i, y| {
        y.fill(0.0);
        for row in x[i * image..][..image].chunks_exact(channels) {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y *= share);
    });
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
    team.chunks(dx, image, |i, dx| {
        let shares: Vec<f32> = dy[i * channels..][..channels].iter().map(|d| d * share).collect();
        for row in dx.chunks_exact_mut(channels) {
            if adds {
                row.iter_mut().zip(&shares).for_each(|(x, d)| *x += d);
            } else {
                row.copy_from_slice(&shares);
            }
        }
    });
}
