//! Grouped convolutions of a batch: depthwise ones, and those of a few channels a group.
//!
//! The gradient of the input is a convolution with turned kernels over the gradient of the output, between whose pixels
//! a stride leaves zeros.

use crate::activation::Activation;
use crate::backward::depthwise_weights::TapSums;
use crate::backward::fuse::FuseColumns;
use crate::backward::team::{Raw, Team};
use crate::backward::window::Window;
use crate::generic::grouped::GroupedPanel;
use crate::geometry::Geometry;

/// A grouped convolution of a batch, static with one expert.
///
/// # Shapes
/// As [`Dense`](crate::backward::Dense), with weights `[experts][c_out][c_in / groups][kh * kw]`.
#[derive(Clone, Copy, Debug)]
pub struct Grouped<'a> {
    /// Which pixels are read; padding at most `dilation * (kernel - 1)`.
    pub window: &'a Window,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Groups.
    pub groups: usize,
    /// Fixed kernels of each output channel; static layers have one.
    pub experts: usize,
    /// The weights.
    pub weights: &'a [f32],
}

/// One direction of a grouped convolution: panels of all output channels, and the coefficients to fuse them with.
struct Direction {
    geometry: Geometry,
    /// Inputs and outputs of a group.
    group: [usize; 2],
    channels: [usize; 2],
    /// `[panel][rows][experts][nr]`, a row for each tap and input of a group.
    packed: Vec<f32>,
    rows: usize,
}

impl Grouped<'_> {
    fn group(&self) -> [usize; 2] {
        [self.c_in / self.groups, self.c_out / self.groups]
    }

    fn check(&self, x: usize, y: usize, coefs: Option<&[f32]>) {
        let Self { window: w, c_in, c_out, experts, groups, .. } = *self;
        assert!(c_in % groups == 0 && c_out % groups == 0, "{groups} groups of {c_in} and {c_out} channels");
        let len = experts * c_out * self.group()[0] * w.taps();
        assert_eq!(self.weights.len(), len, "weights of {c_in} -> {c_out} channels in {groups} groups");
        assert_eq!(x, w.images * w.inputs() * c_in, "input of {c_in} channels");
        assert_eq!(y, w.images * w.outputs() * c_out, "output of {c_out} channels");
        if let Some(coefs) = coefs {
            assert_eq!(
                coefs.len(),
                w.images * experts * c_out,
                "coefficients of {experts} x {c_out} channels"
            );
        }
    }

    fn weight(&self, e: usize, co: usize, i: usize, tap: usize) -> f32 {
        let [inputs, _] = self.group();
        self.weights[((e * self.c_out + co) * inputs + i) * self.window.taps() + tap]
    }

    /// Packs `weight(expert, channel, tap, input)`.
    fn direction(
        &self,
        nr: usize,
        geometry: Geometry,
        [group, channels]: [[usize; 2]; 2],
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Direction {
        let rows = geometry.taps() * group[0];
        let mut packed = vec![0.0; channels[1].div_ceil(nr) * rows * self.experts * nr];
        for c in 0..channels[1] {
            for row in 0..rows {
                for e in 0..self.experts {
                    let at = ((c / nr * rows + row) * self.experts + e) * nr + c % nr;
                    packed[at] = weight(e, c, row / group[0], row % group[0]);
                }
            }
        }
        Direction { geometry, group, channels, packed, rows }
    }

    /// `out = x (*) sum_i eta_i w_i + bias`; without coefficients the one kernel of a static layer.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn forward(
        &self,
        team: &mut Team,
        coefs: Option<&[f32]>,
        x: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        self.check(x.len(), out.len(), coefs);
        let (g, channels) = (self.window.geometry, [self.c_in, self.c_out]);
        let d = self
            .direction(team.isa.nr(), g, [self.group(), channels], |e, c, tap, i| self.weight(e, c, i, tap));
        self.run(team, &d, coefs.map(|c| (c, 1)), x, bias, (out, false));
    }

    /// The gradient of the input from that of the output; added to `dx` where `adds`.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_input(
        &self,
        team: &mut Team,
        coefs: Option<&[f32]>,
        dy: &[f32],
        dx: &mut [f32],
        adds: bool,
    ) {
        self.check(dx.len(), dy.len(), coefs);
        let (g, [inputs, outputs]) = (self.window.geometry, self.group());
        let turned = std::array::from_fn(|d| g.dilation[d] * (g.kernel[d] - 1) - g.padding[d]);
        let input = std::array::from_fn(|d| g.input[d] + g.dilation[d] * (g.kernel[d] - 1) - 2 * turned[d]);
        let back = Geometry { input, padding: turned, stride: [1, 1], ..g };
        let taps = g.taps();
        let sizes = [[outputs, inputs], [self.c_out, self.c_in]];
        let d = self.direction(team.isa.nr(), back, sizes, |e, c, tap, o| {
            self.weight(e, c / inputs * outputs + o, c % inputs, taps - 1 - tap)
        });
        // The kernel's output channel `o` of the group is the row, the input channel the lane.
        let expanded = coefs.filter(|_| inputs > 1 || outputs > 1).map(|coefs| {
            let rows = coefs.chunks_exact(self.experts * self.c_out);
            let of_image = |image: &[f32]| -> Vec<f32> {
                let mut all = Vec::with_capacity(outputs * self.experts * self.c_in);
                for (o, e) in (0..outputs).flat_map(|o| (0..self.experts).map(move |e| (o, e))) {
                    all.extend((0..self.c_in).map(|c| image[e * self.c_out + c / inputs * outputs + o]));
                }
                all
            };
            rows.flat_map(of_image).collect::<Vec<f32>>()
        });
        let coefs = match &expanded {
            Some(all) => Some((&all[..], outputs)),
            None => coefs.map(|c| (c, 1)),
        };
        let [height, width] = g.output();
        if g.stride == [1, 1] && [height, width] == input {
            return self.run(team, &d, coefs, dy, None, (dx, adds));
        }
        let (c, pixels, spread) = (self.c_out, self.window.outputs(), input[0] * input[1]);
        let mut wide = team.take_shared(self.window.images * spread * c);
        team.chunks(&mut wide[..self.window.images * spread * c], spread * c, |image, wide| {
            wide.fill(0.0);
            for (p, from) in dy[image * pixels * c..][..pixels * c].chunks_exact(c).enumerate() {
                let at = p / width * g.stride[0] * input[1] + p % width * g.stride[1];
                wide[at * c..][..c].copy_from_slice(from);
            }
        });
        self.run(team, &d, coefs, &wide[..self.window.images * spread * c], None, (dx, adds));
        team.put_back(wide);
    }

    /// Runs a direction; `coefs` with the number of sets of them that the rows of a tap take in turn.
    fn run(
        &self,
        team: &mut Team,
        d: &Direction,
        coefs: Option<(&[f32], usize)>,
        x: &[f32],
        bias: Option<&[f32]>,
        (out, adds): (&mut [f32], bool),
    ) {
        let (isa, experts, [inputs, n]) = (team.isa, self.experts, d.channels);
        let nr = isa.nr();
        let [height, width] = d.geometry.output();
        let panels = n.div_ceil(nr);
        let (out, residual_ld) = (Raw::of(out), n);
        team.run(self.window.images * panels, d.rows * nr, |part, fused| {
            let (image, p) = (part / panels, part % panels);
            let (c0, cols) = (p * nr, nr.min(n - p * nr));
            let packed = &d.packed[p * d.rows * experts * nr..][..d.rows * experts * nr];
            let panel = match coefs {
                None => packed.as_ptr(),
                Some((coefs, sets)) => {
                    for row in 0..if sets == 1 { 1 } else { d.rows } {
                        let at = (image * sets + row % sets) * experts * n + c0;
                        let len = if sets == 1 { d.rows } else { 1 };
                        let fused = &mut fused[row * nr..][..len * nr];
                        let (packed, coefs) = (&packed[row * experts * nr..], coefs[at..].as_ptr());
                        isa.run(FuseColumns { packed, coefs, step: n, experts, cols, fused });
                    }
                    fused.as_ptr()
                }
            };
            let first = out.at(image * height * width * n + c0);
            isa.run(GroupedPanel {
                geometry: &d.geometry,
                x: x[image * d.geometry.input[0] * d.geometry.input[1] * inputs..].as_ptr(),
                x_ld: inputs,
                group: d.group,
                inputs,
                panel,
                channel0: c0,
                cols,
                rows: [0, height],
                out: first,
                out_ld: n,
                bias: bias.map_or(std::ptr::null(), |b| b[c0..].as_ptr()),
                residual: if adds { first } else { std::ptr::null() },
                residual_ld,
                act: Activation::None,
                sums: std::ptr::null_mut(),
                sums_ld: 0,
            });
        });
    }

    /// The gradients of the weights, and of the coefficients where there are any; both are overwritten.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_weights(
        &self,
        team: &mut Team,
        coefs: Option<&[f32]>,
        [x, dy]: [&[f32]; 2],
        dw: &mut [f32],
        d_coefs: &mut [f32],
    ) {
        self.check(x.len(), dy.len(), coefs);
        assert_eq!(dw.len(), self.weights.len(), "gradient of the weights");
        assert_eq!(d_coefs.len(), coefs.map_or(0, <[f32]>::len), "gradient of the coefficients");
        let (isa, n, images, experts) = (team.isa, self.c_out, self.window.images, self.experts);
        let (nr, rows, [inputs, _]) = (isa.nr(), self.window.taps() * self.group()[0], self.group());
        let g = self.window.geometry;
        let weights =
            self.direction(nr, g, [self.group(), [self.c_in, n]], |e, c, tap, i| self.weight(e, c, i, tap));
        let panels = n.div_ceil(nr);
        // Few panels are cut by images, into sums of their own that are added up in order.
        let splits = 4usize.div_ceil(panels).min(images);
        let len = rows * experts * nr;
        let mut total = team.take_shared(splits * panels * len);
        let d_coefs = Raw::of(d_coefs);
        let sums_of = Raw::of(&mut total);
        team.run(splits * panels, rows * nr, |part, sums| {
            let (split, p) = (part / panels, part % panels);
            let (c0, cols) = (p * nr, nr.min(n - p * nr));
            // SAFETY: each part has a total of its own.
            let total = unsafe { sums_of.slice(part * len, len) };
            total.fill(0.0);
            for image in split * images / splits..(split + 1) * images / splits {
                sums.fill(0.0);
                isa.run(TapSums {
                    geometry: &g,
                    x: &x[image * self.window.inputs() * self.c_in..][..self.window.inputs() * self.c_in],
                    dy: &dy[image * self.window.outputs() * n..][..self.window.outputs() * n],
                    channels: [self.c_in, n],
                    group: self.group(),
                    channel0: c0,
                    cols,
                    sums: &mut *sums,
                });
                let Some(coefs) = coefs else {
                    total.iter_mut().zip(&*sums).for_each(|(t, s)| *t += s);
                    continue;
                };
                for e in 0..experts {
                    let at = (image * experts + e) * n + c0;
                    let coefs = &coefs[at..][..cols];
                    // SAFETY: the panel's coefficients of an image belong to one part.
                    let d_coefs = unsafe { d_coefs.slice(at, cols) };
                    d_coefs.fill(0.0);
                    for (row, sums) in sums.chunks_exact(nr).enumerate() {
                        let place = (row * experts + e) * nr;
                        let weights = &weights.packed[p * len + place..][..cols];
                        let total = &mut total[place..][..cols];
                        for l in 0..cols {
                            total[l] += coefs[l] * sums[l];
                            d_coefs[l] += weights[l] * sums[l];
                        }
                    }
                }
            }
        });
        let (first, rest) = total[..splits * panels * len].split_at_mut(panels * len);
        for part in rest.chunks_exact(panels * len) {
            first.iter_mut().zip(part).for_each(|(t, x)| *t += x);
        }
        for (i, dw) in dw.iter_mut().enumerate() {
            let (tap, rest) = (i % self.window.taps(), i / self.window.taps());
            let (input, c, e) = (rest % inputs, rest / inputs % n, rest / inputs / n);
            *dw = first[((c / nr * rows + tap * inputs + input) * experts + e) * nr + c % nr];
        }
        team.put_back(total);
    }
}
