//! Convolutions against the naive one.

use dynet_kernels::winograd::{Side, WinogradConv};
use dynet_kernels::*;

use crate::random::Random;

/// Stands where nothing may be written.
const GUARD: f32 = 77.0;

/// A convolution that a kernel and its naive version compute.
pub(crate) struct Case {
    geometry: Geometry,
    border: Border,
    groups: usize,
    c_in: usize,
    c_out: usize,
    experts: usize,
    storage: Storage,
    /// Rows of the output that a tile may start at are multiples of this; 0 for any pixel.
    row_step: usize,
    /// Whether a kernel reads rows of the image in one piece: [`Taps::rows`].
    rows: bool,
    /// Whether a kernel reads the image's planes.
    planes: bool,
    /// Whether factors are rounded to bfloat16.
    bf16: bool,
    /// Largest error of an output, relative to 1 + its size.
    tolerance: f64,
}

impl Case {
    fn new(geometry: Geometry, [groups, c_in, c_out]: [usize; 3], experts: usize, storage: Storage) -> Self {
        // Terms are below 1 x 1 x experts; each of at most 1000 adds half an ULP of a sum of a few dozen.
        let tolerance = 4e-5;
        let border = Border::Zeros;
        Self {
            geometry,
            border,
            groups,
            c_in,
            c_out,
            experts,
            storage,
            row_step: 1,
            rows: false,
            planes: false,
            bf16: false,
            tolerance,
        }
    }
}

fn window(r: &mut Random) -> Geometry {
    Geometry {
        input: [r.below(9) + 4, r.below(14) + 4],
        kernel: [r.pick(&[1, 1, 3, 2, 5]), r.pick(&[1, 3, 3, 4])],
        stride: [r.below(3) + 1, r.below(2) + 1],
        padding: [r.below(3), r.below(3)],
        dilation: [r.pick(&[1, 1, 2]), r.pick(&[1, 1, 3])],
    }
}

/// A square window, the kind that has kernels of its own.
fn square(r: &mut Random) -> Geometry {
    let (k, stride) = (r.pick(&[3, 3, 5]), r.below(2) + 1);
    Geometry { padding: [r.below(k); 2], ..Geometry::same([r.below(12) + 5, r.below(20) + 5], k, stride) }
}

const POINT: Geometry =
    Geometry { input: [1, 1], kernel: [1, 1], stride: [1, 1], padding: [0, 0], dilation: [1, 1] };

fn experts(r: &mut Random) -> usize {
    r.pick(&[1, 2, 3, 4, 6, 8, 9, 16])
}

fn storage(r: &mut Random) -> Storage {
    r.pick(&[Storage::F32, Storage::Bf16, Storage::Int8])
}

/// Dense convolutions; static ones without a storage.
pub(crate) fn dense(isa: Isa, r: &mut Random, what: &str, storage: Option<Storage>) {
    let case = dense_case(r, storage);
    compare(isa, r, what, &case);
}

/// Dense convolutions of factors that are rounded to bfloat16, some of them in groups of whole panels.
pub(crate) fn dense_bf16(isa: Isa, r: &mut Random, what: &str, dynamic: bool) {
    let storage = dynamic.then(|| storage(r));
    let mut case = dense_case(r, storage);
    case.bf16 = true;
    if r.below(4) == 0 {
        (case.groups, case.c_out, case.rows) = (2, 2 * isa.nr() * (r.below(2) + 1), false);
    }
    compare(isa, r, what, &case);
}

fn dense_case(r: &mut Random, storage: Option<Storage>) -> Case {
    let geometry = match r.below(3) {
        0 => Geometry { input: [r.below(9) + 1, r.below(9) + 1], ..POINT },
        1 => square(r),
        _ => window(r),
    };
    let experts = if storage.is_some() { experts(r) } else { 1 };
    // Around the 256 rows of weights that are fused at a time, the 32 channels of a panel.
    let c_in = if geometry.is_pointwise() && r.coin() { r.below(600) + 1 } else { r.below(40) + 1 };
    let c_out = r.below(100) + 1;
    let mut case = Case::new(geometry, [1, c_in, c_out], experts, storage.unwrap_or_default());
    case.row_step = r.below(2);
    case.border = r.pick(&[Border::Zeros, Border::Reflect, Border::Replicate, Border::Circular]);
    case.rows = geometry.padding == [0, 0] && geometry.dilation[1] == 1 && r.coin();
    case
}

/// One pixel, weights of one kernel.
pub(crate) fn matvec(isa: Isa, r: &mut Random, what: &str) {
    let (storage, sizes) = (storage(r), [1, r.below(300) + 1, r.below(400) + 1]);
    compare(isa, r, what, &Case::new(POINT, sizes, 1, storage));
}

pub(crate) fn depthwise(isa: Isa, r: &mut Random, what: &str) {
    let geometry = if r.coin() { square(r) } else { window(r) };
    let (c, experts, storage) = (r.below(100) + 1, experts(r), storage(r));
    compare(isa, r, what, &Case::new(geometry, [c, 1, c], experts, storage));
}

/// Groups of a few channels.
pub(crate) fn narrow(isa: Isa, r: &mut Random, what: &str) {
    let geometry = if r.coin() { square(r) } else { window(r) };
    let (groups, c_in) = (r.below(9) + 1, r.pick(&[1, 2, 3, 6, 6, 7, 20]));
    let c_out = groups * r.pick(&[1, 2, 6, 6, 8]);
    let (experts, storage) = (experts(r), storage(r));
    compare(isa, r, what, &Case::new(geometry, [groups, c_in, c_out], experts, storage));
}

pub(crate) fn winograd(isa: Isa, r: &mut Random, what: &str, side: Side) {
    let input = [r.below(14) + 3, r.below(14) + 3];
    let mut geometry = Geometry { padding: [r.below(3), r.below(3)], ..Geometry::same(input, 3, 1) };
    // Around the 64 channels whose kernels are transformed at a time.
    let mut sizes = [1, r.below(150) + 1, r.below(70) + 1];
    let (mut experts, storage) = (experts(r), storage(r));
    if side == Side::Three {
        // Images of one channel and hardly more columns than a tile reads end within a register.
        let most = r.pick(&[6, 40]);
        let (kernel, input) = (r.pick(&[7, 7, 8]), [r.below(most) + 8, r.below(most) + 8]);
        geometry = Geometry { padding: [0, 0], ..Geometry::same(input, kernel, 2) };
        (sizes[1], experts) = (r.below(5) + 1, 1);
    }
    let mut case = Case::new(geometry, sizes, experts, if experts > 1 { storage } else { Storage::F32 });
    case.row_step = side.outputs();
    case.rows = side == Side::Three;
    // The plain sum's, times how far the transforms blow up what they add.
    case.tolerance *= if side == Side::Two { 2.0 } else { 20.0 };
    compare_with(isa, r, what, &case, Some(side));
}

/// Stems over planes.
pub(crate) fn stem(isa: Isa, r: &mut Random, what: &str) {
    let (input, stride) = ([r.below(14) + 1, r.below(40) + 1], r.below(2) + 1);
    let geometry = Geometry { padding: [r.below(3), r.below(3)], ..Geometry::same(input, 3, stride) };
    let mut case = Case::new(geometry, [1, r.below(4) + 1, r.below(70) + 1], 1, Storage::F32);
    case.planes = true;
    compare(isa, r, what, &case);
}

/// The nearest value of 8 bits, ties to even.
fn nearest_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let down = f32::from_bits(bits & !0xffff);
    let up = f32::from_bits((bits & !0xffff) + 0x1_0000);
    let (below, above) = ((x - down).abs(), (up - x).abs());
    if below < above || (below == above && bits & 0x1_0000 == 0) { down } else { up }
}

fn compare(isa: Isa, r: &mut Random, what: &str, case: &Case) {
    compare_with(isa, r, what, case, None);
}

/// What a case's kernel reads.
struct Inputs {
    x: Vec<f32>,
    ld: usize,
    fixed: Vec<f32>,
    coefs: Option<Vec<f32>>,
    coef_channels: usize,
    scale: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    residual: Option<(Vec<f32>, usize)>,
    /// Whether the residual lies where the output will.
    in_place: bool,
    act: Activation,
}

impl Inputs {
    fn new(r: &mut Random, c: &Case, winograd: Option<Side>) -> Self {
        let g = &c.geometry;
        let ld = c.groups * c.c_in + if c.rows || c.planes { 0 } else { r.below(5) };
        let coef_channels = if r.below(3) == 0 { 1 } else { c.c_out };
        let fixed = c.planes || winograd == Some(Side::Three);
        let dynamic = c.experts > 1 || (r.coin() && g.pixels() > 1 && !fixed);
        let residual_ld = c.c_out + r.below(3);
        let residual = r.coin().then(|| (r.values(g.pixels() * residual_ld), residual_ld));
        Self {
            x: r.values(g.input[0] * g.input[1] * ld),
            ld,
            fixed: r.values(c.experts * c.c_out * c.c_in * g.taps()),
            coefs: dynamic.then(|| r.values(c.experts * coef_channels)),
            coef_channels,
            scale: (winograd.is_none() && !c.planes && c.groups == 1 && r.below(4) == 0)
                .then(|| r.values(c.c_in)),
            bias: r.coin().then(|| r.values(c.c_out)),
            residual,
            in_place: r.coin(),
            act: r.pick(&Activation::ALL),
        }
    }

    fn epilogue(&self) -> Epilogue<'_> {
        let residual = self.residual.as_ref().map(|(data, ld)| match self.in_place {
            true => Residual::Output,
            false => Residual::Map(Pixels::new(data, *ld)),
        });
        Epilogue { bias: self.bias.as_deref(), residual, act: self.act }
    }

    /// Outputs `[pixels][c_out]` of the naive version, on weights as they are stored.
    fn exact(&self, c: &Case, stored: &[f32]) -> Vec<f64> {
        let len = c.c_in * c.geometry.taps();
        let of = |i: usize| match &self.coefs {
            None => 1.0,
            Some(x) if self.coef_channels == 1 => x[i / c.c_out],
            Some(x) => x[i],
        };
        let coefs: Vec<f32> = (0..c.experts * c.c_out).map(of).collect();
        let mut weights = reference::fuse(stored, &coefs, c.c_out, len);
        if let Some(scale) = &self.scale {
            for (i, w) in weights.iter_mut().enumerate() {
                *w *= f64::from(scale[i / c.geometry.taps() % c.c_in]);
            }
        }
        let mut x = self.x.clone();
        if c.bf16 {
            x.iter_mut().for_each(|x| *x = nearest_bf16(*x));
            weights.iter_mut().for_each(|w| *w = f64::from(nearest_bf16(*w as f32)));
        }
        let x = Pixels::new(&x, self.ld);
        let sums = reference::conv(x, &c.geometry, c.border, &weights, c.c_out, c.groups);
        let end = |(i, mut sum): (usize, f64)| {
            let (p, t) = (i / c.c_out, i % c.c_out);
            sum += self.bias.as_ref().map_or(0.0, |b| f64::from(b[t]));
            sum += self.residual.as_ref().map_or(0.0, |(data, ld)| f64::from(data[p * ld + t]));
            reference::activate(self.act, sum)
        };
        sums.into_iter().enumerate().map(end).collect()
    }
}

fn compare_with(isa: Isa, r: &mut Random, what: &str, c: &Case, winograd: Option<Side>) {
    let g = &c.geometry;
    if g.pixels() == 0 {
        return;
    }
    let inputs = Inputs::new(r, c, winograd);
    let shape = KernelShape { experts: c.experts, c_out: c.c_out, c_in: c.c_in, taps: g.taps() };
    let segments = if c.rows { g.kernel[0] } else { g.taps() };
    let plain = inputs.coefs.is_none() && inputs.scale.is_none();
    // A fused weight that lies halfway between two bfloat16 is rounded up here and down there: 1/128 of a term.
    let tolerance = if c.bf16 && !plain { 1e-2 } else { c.tolerance };
    let packed = match winograd {
        None if c.bf16 && plain && c.experts == 1 => Panels::pack_bf16(isa, shape, segments, &inputs.fixed),
        None if c.planes => Stem::pack(isa, shape, &inputs.fixed),
        None => Panels::pack(isa, c.storage, shape, &inputs.fixed),
        Some(side) if inputs.coefs.is_none() => winograd::pack(isa, side, g, shape, &inputs.fixed),
        Some(_) => winograd::pack_experts(isa, c.storage, shape, &inputs.fixed),
    };
    // The naive version reads the stored weights, so that only the arithmetic is compared, or those before a transform.
    let stored = |i: usize| {
        let (tap, c_in, channel) = (i % g.taps(), i / g.taps() % c.c_in, i / shape.k() % c.c_out);
        let row = if winograd.is_some() || c.planes { c_in * 9 + tap } else { tap * c.c_in + c_in };
        packed.value(i / shape.k() / c.c_out, channel, row)
    };
    let stored = match winograd {
        Some(_) if inputs.coefs.is_none() => inputs.fixed.clone(),
        _ => (0..inputs.fixed.len()).map(stored).collect(),
    };
    let exact = inputs.exact(c, &stored);
    let out_ld = c.c_out + r.below(4);
    let mut out = vec![GUARD; g.pixels() * out_ld];
    if let (Some((data, ld)), true) = (&inputs.residual, inputs.in_place) {
        for (out, residual) in out.chunks_exact_mut(out_ld).zip(data.chunks_exact(*ld)) {
            out[..c.c_out].copy_from_slice(&residual[..c.c_out]);
        }
    }
    // Tiles of one run of sums, or of several.
    let (width, runs) = (g.output()[1], [1, r.below(4) + 2][r.below(2)]);
    let every = match (c.row_step, runs) {
        (0, _) => r.below(3 * width) + 3,
        (step, 1) => width * step * (r.below(5) + 1),
        (1, _) => 2 * width,
        (step, _) => step * width,
    };
    let channel_block = isa.nr() * (r.below(3) + 1);
    let (pixels, pixel_block) = (g.pixels(), every * runs);
    let grid = Grid { images: 1, pixels, channels: c.c_out, ld: out_ld, pixel_block, channel_block };
    let mut partial = vec![GUARD; pixels.div_ceil(every) * c.c_out];
    let mut again = (out.clone(), partial.clone());
    run(isa, c, &inputs, (&packed, winograd), (grid, every), (&mut out, &mut partial));
    let what = format!(
        "{what}: {g:?} {} groups {} -> {}, {} experts, {:?}",
        c.groups, c.c_in, c.c_out, c.experts, c.storage
    );
    if runs > 1 {
        let grid = Grid { pixel_block: every, channel_block: isa.nr(), ..grid };
        run(isa, c, &inputs, (&packed, winograd), (grid, every), (&mut again.0, &mut again.1));
        assert!(
            again == (out.clone(), partial.clone()),
            "{what}: other bits in tiles of one run of {every} pixels"
        );
    }
    let mut exact_sums = vec![0.0; c.c_out];
    for (i, got) in out.iter().enumerate() {
        let (p, t) = (i / out_ld, i % out_ld);
        if t >= c.c_out {
            assert_eq!(*got, GUARD, "{what}: wrote behind the channels");
            continue;
        }
        let want = exact[p * c.c_out + t];
        exact_sums[t] += want;
        let error = (f64::from(*got) - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "{what}: pixel {p} channel {t}: {got} of {want}");
    }
    let mut sums = vec![GUARD; c.c_out];
    pixelwise::combine_sums(&partial, 1.0, &mut sums);
    for (got, want) in sums.iter().zip(exact_sums) {
        let bound = tolerance * (5.0 * (1.0 + want.abs()) + g.pixels() as f64);
        assert!((f64::from(*got) - want).abs() < bound, "{what}: sum {got} of {want}");
    }
}

/// All tiles of a case, with the sums of each.
fn run(
    isa: Isa,
    c: &Case,
    inputs: &Inputs,
    (weights, winograd): (&Panels, Option<Side>),
    (grid, every): (Grid, usize),
    (out, partial): (&mut [f32], &mut [f32]),
) {
    let geometry = &c.geometry;
    let pixels = grid.pixels.div_ceil(every);
    let sum_grid = Grid { pixels, ld: c.c_out, pixel_block: grid.pixel_block / every, ..grid };
    let (out, sums) = (SharedOut::new(out, 0, grid), SharedOut::new(partial, 0, sum_grid));
    let taps = if c.rows { Taps::rows(geometry) } else { Taps::new(geometry, c.border) };
    let x = Pixels::new(&inputs.x, inputs.ld);
    let coefs = inputs.coefs.as_ref().map(|data| Coefs::new(data, inputs.coef_channels));
    let (epilogue, groups) = (inputs.epilogue(), c.groups);
    // `[c_in][h][w]`.
    let planes: Vec<f32> =
        (0..c.c_in).flat_map(|i| inputs.x.iter().skip(i).step_by(inputs.ld.max(1)).copied()).collect();
    for index in 0..grid.tiles() {
        let (mut tile, sum) = (out.take_index(index), Some(Sums::new(sums.take_index(index), every)));
        if c.planes {
            let mut scratch = vec![GUARD; Stem::scratch_len(geometry, c.c_in)];
            let c = Stem { planes: &planes, geometry, weights, epilogue };
            stem::stem(isa, &c, &mut scratch, &mut tile, sum);
        } else if let Some(side) = winograd {
            let rows = tile.pixels() / geometry.output()[1];
            let len = WinogradConv::scratch_len(weights, side, geometry, rows, coefs.is_some());
            let mut scratch = vec![GUARD; len];
            let c = WinogradConv { x, geometry, side, weights, coefs, epilogue };
            winograd::winograd(isa, &c, &mut scratch, &mut tile, sum);
        } else if c.groups == 1 || c.bf16 {
            let taps = (!geometry.is_pointwise() || index % 2 == 1).then_some(&taps);
            let input_scale = inputs.scale.as_deref();
            let len = match c.bf16 {
                true => Conv::bf16_scratch_len(weights, taps, tile.pixels()),
                false => Conv::scratch_len(weights),
            };
            let (bf16, mut scratch) = (c.bf16, vec![GUARD; len]);
            let c = Conv { x, taps, weights, coefs, groups, input_scale, epilogue };
            // Memory that somebody reads later changes nothing.
            let later = if index % 3 == 0 { weights.as_bytes() } else { &[] };
            if bf16 {
                conv_bf16(isa, &c, &mut scratch, &mut tile, sum, later);
            } else {
                conv_ahead(isa, &c, &mut scratch, &mut tile, sum, later);
            }
        } else {
            let mut scratch = vec![GUARD; GroupedConv::scratch_len(weights, geometry)];
            // Every second tile sees no more of the image than it reads.
            let (part, ld, origin) = part(c, inputs, &tile);
            let (x, origin) = if index % 2 == 1 { (Pixels::new(&part, ld), origin) } else { (x, [0, 0]) };
            let c = GroupedConv { x, origin, geometry, weights, coefs, groups, epilogue };
            grouped(isa, &c, &mut scratch, &mut tile, sum);
        }
    }
}

/// The part of the image that a tile of a grouped convolution reads, values from one of its pixels to the next, and its
/// first row and channel.
fn part(c: &Case, inputs: &Inputs, tile: &Tile<'_>) -> (Vec<f32>, usize, [usize; 2]) {
    let (g, outputs) = (&c.geometry, c.c_out / c.groups);
    let [first, last] =
        [tile.channel0(), tile.channel0() + tile.channels() - 1].map(|t| t / outputs * c.c_in);
    let width = g.output()[1];
    let rows = g.rows_read(tile.pixel0() / width..(tile.pixel0() + tile.pixels()) / width);
    let pixels = rows.start * g.input[1]..rows.end * g.input[1];
    let channels = pixels.flat_map(|p| &inputs.x[p * inputs.ld..][first..last + c.c_in]);
    (channels.copied().collect(), last + c.c_in - first, [rows.start, first])
}
