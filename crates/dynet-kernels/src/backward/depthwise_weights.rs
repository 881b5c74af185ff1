//! `dY (x) X` of a grouped convolution: for each channel and element of the kernel a sum over the pixels of an image.

use crate::geometry::Geometry;
use crate::vector::{Job, MAX_LANES, Vector};

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
        if self.group == [1, 1] && self.cols == 2 * V::LANES && (row == 3 || row == 5) {
            return (0..self.geometry.kernel[0]).for_each(|ky| match row {
                3 => self.row::<V, 3>(v, ky),
                _ => self.row::<V, 5>(v, ky),
            });
        }
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

/// Output columns whose elements `kx0` to `last` of the kernel's rows lie inside the image, from and to.
fn inside(g: &Geometry, [kx0, last]: [usize; 2]) -> [usize; 2] {
    let width = g.output()[1];
    let (first, last) = (g.at(1, 0, kx0), g.at(1, 0, last));
    let from = ((-first).max(0) as usize).div_ceil(g.stride[1]).min(width);
    let end = (g.input[1] as isize - 1 - last).div_euclid(g.stride[1] as isize) + 1;
    [from, (end.max(from as isize) as usize).min(width)]
}

impl TapSums<'_> {
    /// Row `ky` of a depthwise kernel of `KW` columns, for a full panel: twice as many sums as [`Self::taps`] has, which
    /// wait for each other.
    #[inline(always)]
    fn row<V: Vector, const KW: usize>(&mut self, v: V, ky: usize) {
        let g = *self.geometry;
        let ([height, width], [c_in, c_out]) = (g.output(), self.channels);
        let [from, end] = inside(&g, [0, KW - 1]);
        let (tap, step) = (g.dilation[1] * c_in, g.stride[1] * c_in);
        let mut acc = [[v.splat(0.0); 2]; KW];
        for oy in 0..height {
            let y = g.at(0, oy, ky);
            if !(0..g.input[0] as isize).contains(&y) {
                continue;
            }
            let line = &self.x[y as usize * g.input[1] * c_in..][..g.input[1] * c_in];
            let gradient = &self.dy[oy * width * c_out..][..width * c_out];
            // SAFETY: image and gradient have the channels of the panel, the loops meet pixels inside alone.
            unsafe {
                let both = |p: *const f32| [v.load(p), v.load(p.add(V::LANES))];
                let add = |acc: &mut [V::Reg; 2], dy: [V::Reg; 2], x: *const f32| {
                    let x = both(x);
                    *acc = [v.fma(dy[0], x[0], acc[0]), v.fma(dy[1], x[1], acc[1])];
                };
                let (line, gradient) =
                    (line.as_ptr().add(self.channel0), gradient.as_ptr().add(self.channel0));
                for ox in (0..from).chain(end..width) {
                    let dy = both(gradient.add(ox * c_out));
                    for (kx, acc) in acc.iter_mut().enumerate() {
                        let x = g.at(1, ox, kx);
                        if (0..g.input[1] as isize).contains(&x) {
                            add(acc, dy, line.add(x as usize * c_in));
                        }
                    }
                }
                if from < end {
                    let mut pixels = line.add(g.at(1, from, 0) as usize * c_in);
                    for ox in from..end {
                        let dy = both(gradient.add(ox * c_out));
                        for (kx, acc) in acc.iter_mut().enumerate() {
                            add(acc, dy, pixels.add(kx * tap));
                        }
                        pixels = pixels.wrapping_add(step);
                    }
                }
            }
        }
        let sums = &mut self.sums[ky * KW * 2 * V::LANES..][..KW * 2 * V::LANES];
        for (sums, acc) in sums.chunks_exact_mut(V::LANES).zip(acc.into_iter().flatten()) {
            // SAFETY: a register's lanes.
            unsafe { v.store(sums.as_mut_ptr(), v.add(v.load(sums.as_ptr()), acc)) };
        }
    }

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
        let [from, end] = inside(&g, [kx0, kx0 + KW - 1]);
        for oy in 0..height {
            let y = g.at(0, oy, ky);
            if !(0..g.input[0] as isize).contains(&y) {
                continue;
            }
            let line = &self.x[y as usize * g.input[1] * c_in..][..g.input[1] * c_in];
            // The other columns look at each element.
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
