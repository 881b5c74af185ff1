//! Time and GFLOP/s of the convolution kernels on one core, on shapes of the zoo's nets.
//!
//! `cargo bench -p dynet-kernels -- [FILTER] [--isa NAME]`. Each line is the best of several rounds, since other
//! work on the machine can only make a round slower. `share` is that of the peak given by DYNET_PEAK_GFLOPS, else of
//! what the product reaches on 196 pixels of 256 channels, which is 97 % of a core's peak or more. Layers repeat on the
//! same memory: weights come from the last-level cache where they fit into it.

#![expect(clippy::print_stdout, reason = "a table is what it makes")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use dynet_kernels::winograd::{Side, WinogradConv};
use dynet_kernels::*;

/// A convolution: input side, channels, kernel, stride, groups.
struct Shape {
    name: &'static str,
    side: usize,
    c_in: usize,
    c_out: usize,
    k: usize,
    stride: usize,
    groups: usize,
}

const fn dense(name: &'static str, side: usize, c_in: usize, c_out: usize, k: usize, stride: usize) -> Shape {
    Shape { name, side, c_in, c_out, k, stride, groups: 1 }
}

const fn depthwise(name: &'static str, side: usize, c: usize, k: usize, stride: usize) -> Shape {
    Shape { name, side, c_in: c, c_out: c, k, stride, groups: c }
}

const fn narrow(name: &'static str, side: usize, c: usize, stride: usize) -> Shape {
    Shape { name, side, c_in: c, c_out: c, k: 3, stride, groups: c / 6 }
}

const SHAPES: &[Shape] = &[
    dense("1x1 96->576 14", 14, 96, 576, 1, 1),
    dense("1x1 24->128 28", 28, 24, 128, 1, 1),
    dense("1x1 256->1024 14", 14, 256, 1024, 1, 1),
    dense("1x1 960->160 7", 7, 960, 160, 1, 1),
    dense("1x1 512->2048 7", 7, 512, 2048, 1, 1),
    dense("1x1 2048->512 7", 7, 2048, 512, 1, 1),
    dense("1x1 64->256 56", 56, 64, 256, 1, 1),
    dense("1x1 16->64 112", 112, 16, 64, 1, 1),
    dense("1x1 32->16 112", 112, 32, 16, 1, 1),
    dense("1x1 32->18 112", 112, 32, 18, 1, 1),
    dense("1x1 72->24 56", 56, 72, 24, 1, 1),
    dense("1x1 24->24 56", 56, 24, 24, 1, 1),
    dense("1x1 240->40 14", 14, 240, 40, 1, 1),
    dense("1x1 576->96 7", 7, 576, 96, 1, 1),
    dense("fc 576->1024", 1, 576, 1024, 1, 1),
    dense("fc 2048->1000", 1, 2048, 1000, 1, 1),
    dense("1x1/2 256->512 56", 56, 256, 512, 1, 2),
    dense("3x3 64 56", 56, 64, 64, 3, 1),
    dense("3x3 128 28", 28, 128, 128, 3, 1),
    dense("3x3 256 14", 14, 256, 256, 3, 1),
    dense("3x3 512 7", 7, 512, 512, 3, 1),
    dense("3x3/2 64->128 56", 56, 64, 128, 3, 2),
    dense("3x3/2 3->16 224", 224, 3, 16, 3, 2),
    dense("7x7/2 3->64 224", 224, 3, 64, 7, 2),
    depthwise("dw3 32 112", 112, 32, 3, 1),
    depthwise("dw3/2 96 112", 112, 96, 3, 2),
    depthwise("dw3 144 56", 56, 144, 3, 1),
    depthwise("dw3 192 28", 28, 192, 3, 1),
    depthwise("dw3 58 28", 28, 58, 3, 1),
    depthwise("dw3 384 14", 14, 384, 3, 1),
    depthwise("dw3 960 7", 7, 960, 3, 1),
    depthwise("dw3/2 72 56", 56, 72, 3, 2),
    depthwise("dw5/2 96 28", 28, 96, 5, 2),
    depthwise("dw5 240 14", 14, 240, 5, 1),
    depthwise("dw5 576 7", 7, 576, 5, 1),
    narrow("g6 18 112", 112, 18, 1),
    narrow("g6/2 24 112", 112, 24, 2),
    narrow("g6 24 56", 56, 24, 1),
    narrow("g6 36 28", 28, 36, 1),
    narrow("g6 66 14", 14, 66, 1),
    narrow("g6 96 14", 14, 96, 1),
    narrow("g6/2 96 14", 14, 96, 2),
    narrow("g6 162 7", 7, 162, 1),
    narrow("g6 324 7", 7, 324, 1),
];

fn values(len: usize, seed: u32) -> Vec<f32> {
    // A Weyl sequence: dense, never zero for long, the same in every run.
    let next = |i: usize| {
        ((i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(next).collect()
}

/// Least time of a call.
fn best(mut call: impl FnMut()) -> Duration {
    call();
    let (start, mut least, mut rounds) = (Instant::now(), Duration::MAX, 0);
    while rounds < 5 || (start.elapsed() < Duration::from_millis(60) && rounds < 2000) {
        let round = Instant::now();
        call();
        least = least.min(round.elapsed());
        rounds += 1;
    }
    least
}

struct Bench<'a> {
    isa: Isa,
    shape: &'a Shape,
    geometry: Geometry,
    taps: Option<Taps>,
    x: Buffer<f32>,
    ld: usize,
    out: Buffer<f32>,
    /// By Winograd's filtering instead.
    side: Option<Side>,
}

impl<'a> Bench<'a> {
    fn new(isa: Isa, shape: &'a Shape, side: Option<Side>) -> Self {
        let s = shape;
        let mut geometry = Geometry::same([s.side; 2], s.k, s.stride);
        let mut taps =
            (s.groups == 1 && !geometry.is_pointwise()).then(|| Taps::new(&geometry, Border::Zeros));
        if s.c_in <= 3 {
            geometry = Geometry { input: [s.side + 2 * (s.k / 2); 2], padding: [0; 2], ..geometry };
            taps = Some(Taps::rows(&geometry));
        }
        let x = values(geometry.input[0] * geometry.input[1] * s.c_in, 1);
        let out = Buffer::zeroed(geometry.pixels() * s.c_out);
        Self { isa, shape, geometry, taps, x: Buffer::from(&x[..]), ld: s.c_in, out, side }
    }

    fn pack(&self, experts: usize, storage: Storage) -> Panels {
        let s = self.shape;
        let shape = KernelShape { experts, c_out: s.c_out, c_in: s.c_in / s.groups, taps: s.k * s.k };
        let weights = values(experts * s.c_out * shape.k(), 2);
        match self.side {
            None => Panels::pack(self.isa, storage, shape, &weights),
            Some(side) if experts == 1 => winograd::pack(self.isa, side, &self.geometry, shape, &weights),
            Some(_) => winograd::pack_experts(self.isa, storage, shape, &weights),
        }
    }

    fn call(&mut self, weights: &Panels, coef: Option<&[f32]>, scratch: &mut [f32]) {
        let s = self.shape;
        let x = Pixels::new(&self.x, self.ld);
        let bias = &coef_ones(s.c_out)[..s.c_out];
        let epilogue = Epilogue { bias: Some(bias), residual: None, act: Activation::Relu };
        let coefs = coef.map(|c| Coefs::new(c, s.c_out));
        let mut tile = Tile::whole(&mut self.out, self.geometry.pixels(), s.c_out, s.c_out);
        if let Some(side) = self.side {
            let c = WinogradConv { x, geometry: &self.geometry, side, weights, coefs, epilogue };
            winograd::winograd(self.isa, &c, scratch, &mut tile, None);
        } else if s.groups == 1 {
            let taps = self.taps.as_ref();
            let c = Conv { x, taps, weights, coefs, groups: 1, input_scale: None, epilogue };
            conv(self.isa, &c, scratch, &mut tile, None);
        } else {
            let c = GroupedConv {
                x,
                origin: [0, 0],
                geometry: &self.geometry,
                weights,
                coefs,
                groups: s.groups,
                epilogue,
            };
            grouped(self.isa, &c, scratch, &mut tile, None);
        }
        black_box(&mut self.out);
    }

    fn time(&mut self, experts: usize, storage: Storage) -> Duration {
        let weights = self.pack(experts, storage);
        let coef = values(experts * self.shape.c_out, 3);
        let coef = (experts > 1).then_some(&coef[..]);
        let g = &self.geometry;
        let len = match self.side {
            None => Conv::scratch_len(&weights).max(GroupedConv::scratch_len(&weights, g)),
            Some(side) => WinogradConv::scratch_len(&weights, side, g, g.output()[0], coef.is_some()),
        };
        let mut scratch = Buffer::zeroed(len);
        best(|| self.call(&weights, coef, &mut scratch))
    }
}

fn coef_ones(_: usize) -> &'static [f32] {
    static ONES: [f32; 4096] = [0.1; 4096];
    &ONES
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let isa = args
        .iter()
        .position(|a| a == "--isa")
        .map(|i| args[i + 1].parse::<Isa>().expect("an instruction set"));
    let isa = isa.unwrap_or_else(Isa::best);
    let filter = args.first().filter(|a| !a.starts_with("--")).cloned().unwrap_or_default();
    let given = std::env::var("DYNET_PEAK_GFLOPS").ok().and_then(|p| p.parse().ok());
    let peak: f64 = given.unwrap_or_else(|| {
        let shape = dense("peak", 14, 256, 256, 1, 1);
        let time = Bench::new(isa, &shape, None).time(1, Storage::F32).as_secs_f64();
        2.0 * (196 * 256 * 256) as f64 / time / 1e9
    });
    println!(
        "{isa}, one core, microseconds (GFLOP/s, share of {peak:.0} GFLOP/s); K = 4 fused: f32, bf16, int8"
    );
    println!(
        "{:<20} {:>8} {:>7} {:>6} {:>9} {:>9} {:>9}",
        "layer", "static", "GFLOP/s", "share", "f32", "bf16", "int8"
    );
    for shape in SHAPES.iter().filter(|s| s.name.contains(&filter)) {
        for side in [None, Some(Side::Two), Some(Side::Three), Some(Side::Four)] {
            let bench = Bench::new(isa, shape, side);
            if side.is_none_or(|side| shape.groups == 1 && side.fits(&bench.geometry)) {
                line(bench, peak);
            }
        }
    }
}

/// Times one layer. Winograd's filtering counts as the multiplications that it replaces.
fn line(mut bench: Bench<'_>, peak: f64) {
    let shape = bench.shape;
    let fixed = bench.time(1, Storage::F32).as_secs_f64();
    let others = [Storage::F32, Storage::Bf16, Storage::Int8].map(|s| match bench.side {
        // Static stems alone.
        Some(Side::Three) => f64::NAN,
        _ => bench.time(4, s).as_secs_f64() * 1e6,
    });
    let taps = shape.k * shape.k;
    let flop = 2.0 * (bench.geometry.pixels() * shape.c_out * shape.c_in / shape.groups * taps) as f64;
    let rate = flop / fixed / 1e9;
    let name = match bench.side {
        None => shape.name.to_owned(),
        Some(side) => format!("{} F({})", shape.name, side.outputs()),
    };
    println!(
        "{name:<20} {:>8.1} {rate:>7.0} {:>5.0}% {:>9.1} {:>9.1} {:>9.1}",
        fixed * 1e6,
        100.0 * rate / peak,
        others[0],
        others[1],
        others[2]
    );
}
