//! `dY (x) X` of a grouped convolution: for each channel and element of the kernel a sum over the pixels of an image.

use crate::geometry::Geometry;
use crate::vector::{Job, Vector};

const MAX_LANES: usize = 16;
/// Elements of a row of the kernel whose sums stay in registers together.
const MAX_RUN: usize = 8;

/// Adds `dY (x) X` of one image and one panel of output channels to `sums [tap][input of a group][nr]`.
pub(super) struct TapSums<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    /// Of input and output.
    pub(super) channels: [usize; 2],
    pub(super) group: [usize; 2],
    pub(super) channel0: usize,
    pub(super) cols: usize,
    pub(super) sums: &'a mut [f32],
}

impl Job for TapSums<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let row = self.geometry.kernel[1];
        for c in (0..self.cols).step_by(V::LANES) {
            for ky in 0..self.geometry.kernel[0] {
                for i in 0..self.group[0] {
                    let mut kx = 0;
                    while kx < row {
                        match row - kx {
                            1 => self.taps::<V, 1>(v, c, [ky, kx], i),
                            2 => self.taps::<V, 2>(v, c, [ky, kx], i),
                            3 => self.taps::<V, 3>(v, c, [ky, kx], i),
                            4 => self.taps::<V, 4>(v, c, [ky, kx], i),
                            5 => self.taps::<V, 5>(v, c, [ky, kx], i),
                            6 => self.taps::<V, 6>(v, c, [ky, kx], i),
                            7 => self.taps::<V, 7>(v, c, [ky, kx], i),
                            _ => self.taps::<V, MAX_RUN>(v, c, [ky, kx], i),
                        }
                        kx += MAX_RUN.min(row - kx);
                    }
                }
            }
        }
    }
}

impl TapSums<'_> {
    /// `KW` elements of row `ky` of the kernel from `kx0` on, input `i` of each group.
    #[inline(always)]
    fn taps<V: Vector, const KW: usize>(&mut self, v: V, c: usize, [ky, kx0]: [usize; 2], i: usize) {
        let g = *self.geometry;
        let [height, width] = g.output();
        let lanes = (self.cols - c).min(V::LANES);
        let [c_in, c_out] = self.channels;
        let channel = self.channel0 + c;
        let input = |lane: usize| (channel + lane.min(lanes - 1)) / self.group[1] * self.group[0] + i;
        let straight = self.group == [1, 1];
        let places: [usize; MAX_LANES] = std::array::from_fn(input);
        let mut acc = [v.splat(0.0); KW];
        for oy in 0..height {
            let y = g.at(0, oy, ky);
            if !(0..g.input[0] as isize).contains(&y) {
                continue;
            }
            let line = &self.x[y as usize * g.input[1] * c_in..][..g.input[1] * c_in];
            // Output columns whose whole window lies inside the image; the others look at each element.
            let (first, last) = (g.at(1, 0, kx0), g.at(1, 0, kx0 + KW - 1));
            let stride = g.stride[1] as isize;
            let from = ((-first).max(0) as usize).div_ceil(g.stride[1]).min(width);
            let end = (g.input[1] as isize - 1 - last).div_euclid(stride) + 1;
            let end = (end.max(from as isize) as usize).min(width);
            for ox in 0..width {
                let dy = &self.dy[(oy * width + ox) * c_out + channel..][..lanes];
                // SAFETY: `dy` has `lanes` values.
                let dy = unsafe { v.load_some(dy.as_ptr(), lanes) };
                if straight && (from..end).contains(&ox) {
                    let x = g.at(1, ox, kx0) as usize;
                    let pixels = line[x * c_in + channel..].as_ptr();
                    for (kx, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: all pixels of the window lie inside, with `lanes` channels from `channel` on.
                        let value = unsafe { v.load_some(pixels.add(kx * g.dilation[1] * c_in), lanes) };
                        *acc = v.fma(dy, value, *acc);
                    }
                    continue;
                }
                for (kx, acc) in acc.iter_mut().enumerate() {
                    let x = g.at(1, ox, kx0 + kx);
                    if !(0..g.input[1] as isize).contains(&x) {
                        continue;
                    }
                    let pixel = &line[x as usize * c_in..][..c_in];
                    let value = if straight {
                        // SAFETY: the pixel has `lanes` channels from `channel` on, as the gradient has.
                        unsafe { v.load_some(pixel.as_ptr().add(channel), lanes) }
                    } else {
                        let gathered: [f32; MAX_LANES] = std::array::from_fn(|l| pixel[places[l]]);
                        // SAFETY: a register has at most `MAX_LANES` lanes.
                        unsafe { v.load(gathered.as_ptr()) }
                    };
                    *acc = v.fma(dy, value, *acc);
                }
            }
        }
        for (kx, acc) in acc.into_iter().enumerate() {
            let row = (ky * g.kernel[1] + kx0 + kx) * self.group[0] + i;
            let sums = &mut self.sums[row * 2 * V::LANES + c..][..lanes];
            // SAFETY: `sums` has `lanes` values.
            unsafe { v.store_some(sums.as_mut_ptr(), v.add(v.load_some(sums.as_ptr(), lanes), acc), lanes) };
        }
    }
}
