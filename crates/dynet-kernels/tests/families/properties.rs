//! What holds whatever the sizes are.

use dynet_kernels::winograd::{Side, WinogradConv};
use dynet_kernels::*;
use proptest::prelude::*;

use crate::random::Random;

/// Outputs of a dynamic 3x3 convolution, cut into bands of `rows` rows and blocks of `panels` panels.
struct Layer<'a> {
    isa: Isa,
    x: &'a [f32],
    geometry: Geometry,
    shape: KernelShape,
    weights: &'a Panels,
    side: Option<Side>,
}

impl Layer<'_> {
    fn run(&self, coefs: Option<&[f32]>, rows: usize, panels: usize) -> Vec<f32> {
        let (g, s) = (&self.geometry, &self.shape);
        let mut out = vec![0.0; g.pixels() * s.c_out];
        let pixel_block = rows * g.output()[1];
        let channel_block = panels * self.isa.nr();
        let grid = Grid {
            images: 1,
            pixels: g.pixels(),
            channels: s.c_out,
            ld: s.c_out,
            pixel_block,
            channel_block,
        };
        let shared = SharedOut::new(&mut out, 0, grid);
        let taps = Taps::new(g, Border::Zeros);
        let (x, weights) = (Pixels::new(self.x, s.c_in), self.weights);
        let coefs = coefs.map(|c| Coefs::new(c, s.c_out));
        let epilogue = Epilogue::default();
        for index in 0..grid.tiles() {
            let mut tile = shared.take_index(index);
            match self.side {
                None => {
                    let mut scratch = vec![0.0; Conv::scratch_len(weights)];
                    let c =
                        Conv { x, taps: Some(&taps), weights, coefs, groups: 1, input_scale: None, epilogue };
                    conv(self.isa, &c, &mut scratch, &mut tile, None);
                }
                Some(side) => {
                    let len = WinogradConv::scratch_len(weights, side, g, rows, coefs.is_some());
                    let mut scratch = vec![0.0; len];
                    let c = WinogradConv { x, geometry: g, side, weights, coefs, epilogue };
                    winograd::winograd(self.isa, &c, &mut scratch, &mut tile, None);
                }
            }
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    /// One-hot coefficients are the static convolution, bit for bit but where its kernels were transformed ahead, and no
    /// bit depends on how the work is cut.
    #[test]
    fn one_hot_coefficients_are_the_static_convolution(
        seed in any::<u64>(), height in 1usize..12, width in 1usize..12, c_in in 1usize..70, c_out in 1usize..80,
        experts in 1usize..7, side in prop::sample::select(vec![None, Some(Side::Two), Some(Side::Four)]),
        rows in 1usize..4, panels in 1usize..3,
    ) {
        let r = &mut Random(seed);
        let geometry = Geometry::same([height, width], 3, 1);
        let shape = KernelShape { experts, c_out, c_in, taps: 9 };
        let one = KernelShape { experts: 1, ..shape };
        let x = r.values(height * width * c_in);
        let fixed = r.values(experts * c_out * c_in * 9);
        let chosen = r.below(experts);
        let mut coefs = vec![0.0; experts * c_out];
        coefs[chosen * c_out..][..c_out].fill(1.0);
        for isa in Isa::available().flat_map(Isa::tunings) {
            let pack = |shape, weights: &[f32]| match side {
                None => Panels::pack(isa, Storage::F32, shape, weights),
                Some(_) => winograd::pack_experts(isa, Storage::F32, shape, weights),
            };
            let weights = pack(shape, &fixed);
            let of_one = &fixed[chosen * one.k() * c_out..][..one.k() * c_out];
            let layer = Layer { isa, x: &x, geometry, shape, weights: &weights, side };
            let step = side.map_or(1, Side::outputs);
            let whole = layer.run(Some(&coefs), height.next_multiple_of(step), 3);
            let cut = layer.run(Some(&coefs), rows * step, panels);
            prop_assert_eq!(&whole, &cut);
            let of_one_packed = pack(one, of_one);
            let of_one_layer = Layer { weights: &of_one_packed, shape: one, ..layer };
            let ones = side.map(|_| vec![1.0; c_out]);
            prop_assert_eq!(&whole, &of_one_layer.run(ones.as_deref(), rows * step, panels));
            if let Some(side) = side {
                let ahead = winograd::pack(isa, side, &geometry, one, of_one);
                let ahead = Layer { weights: &ahead, ..of_one_layer }.run(None, rows * step, panels);
                for (got, want) in whole.iter().zip(&ahead) {
                    prop_assert!((got - want).abs() < 1e-3, "{:?}: {} of {}", side, got, want);
                }
            }
        }
    }

    /// Images that share a tile have the bits and the sums that each has alone.
    #[test]
    fn images_that_fuse_at_once_keep_their_bits(
        seed in any::<u64>(), count in 1usize..6, side in 1usize..9, kernel in prop::sample::select(vec![1, 3]),
        c_in in 1usize..300, c_out in 1usize..140, experts in 1usize..7, panels in 1usize..4,
        storage in prop::sample::select(vec![Storage::F32, Storage::Bf16, Storage::Int8]), dynamic in any::<bool>(),
    ) {
        let r = &mut Random(seed);
        let geometry = Geometry::same([side, side], kernel, 1);
        let taps = (kernel > 1).then(|| Taps::new(&geometry, Border::Zeros));
        let shape = KernelShape { experts: if dynamic { experts } else { 1 }, c_out, c_in, taps: geometry.taps() };
        let pixels = geometry.pixels();
        let fixed = r.values(shape.experts * c_out * shape.k());
        let [x, residual] = [c_in, c_out].map(|channels| r.values(count * pixels * channels));
        let coefs = r.values(count * shape.experts * c_out);
        for isa in Isa::available().flat_map(Isa::tunings) {
            let weights = Panels::pack(isa, storage, shape, &fixed);
            let of = |image: usize| {
                let part = |len: usize| image * len..(image + 1) * len;
                let coefs = dynamic.then(|| Coefs::new(&coefs[part(shape.experts * c_out)], c_out));
                let residual = Some(Residual::Map(Pixels::new(&residual[part(pixels * c_out)], c_out)));
                let epilogue = Epilogue { bias: None, residual, act: Activation::Relu };
                let x = Pixels::new(&x[part(pixels * c_in)], c_in);
                Conv { x, taps: taps.as_ref(), weights: &weights, coefs, groups: 1, input_scale: None, epilogue }
            };
            let channel_block = panels * isa.nr();
            let grid = Grid { images: count, pixels, channels: c_out, ld: c_out, pixel_block: pixels, channel_block };
            let sum_grid = Grid { pixels: 1, pixel_block: 1, ..grid };
            let mut scratch = vec![0.0; Conv::scratch_len(&weights)];
            let mut run = |together: bool| {
                let mut results = [vec![0.0; count * pixels * c_out], vec![0.0; count * c_out]];
                let [out, sums] = &mut results;
                let (out, sums) = (SharedOut::new(out, 0, grid), SharedOut::new(sums, 0, sum_grid));
                for block in 0..grid.channel_blocks() {
                    let mut images: Vec<_> = (0..count).map(|image| {
                        let (out, sums) = (out.take(image, 0, block), Some(Sums::new(sums.take(image, 0, block), pixels)));
                        Some(OfImage { conv: of(image), out, sums })
                    }).collect();
                    images.insert(r.below(count + 1), None);
                    match together {
                        true => conv_images(isa, &mut images, &mut scratch, weights.as_bytes()),
                        false => for OfImage { conv: c, out, sums } in images.iter_mut().flatten() {
                            conv(isa, c, &mut scratch, out, sums.take());
                        }
                    }
                }
                results
            };
            prop_assert_eq!(run(true), run(false));
        }
    }

    /// The error of both tiles of Winograd's, relative to the largest output, on layers as wide as ResNet's.
    #[test]
    fn winograd_keeps_a_layers_outputs(seed in any::<u64>(), c_in in 32usize..257) {
        let r = &mut Random(seed);
        let geometry = Geometry::same([8, 8], 3, 1);
        let shape = KernelShape { experts: 1, c_out: 16, c_in, taps: 9 };
        let x = r.values(64 * c_in);
        let fixed = r.values(16 * c_in * 9);
        let weights: Vec<f64> = fixed.iter().map(|w| f64::from(*w)).collect();
        let exact = reference::conv(Pixels::new(&x, c_in), &geometry, Border::Zeros, &weights, 16, 1);
        let largest = exact.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let isa = Isa::best();
        // Twice the largest errors of 1500 cases; the logits' bound is 1e-4 for a net of some 20 such layers, whose errors cancel.
        for (side, bound) in [(Side::Two, 2e-6), (Side::Four, 4e-5)] {
            let weights = winograd::pack(isa, side, &geometry, shape, &fixed);
            let layer = Layer { isa, x: &x, geometry, shape, weights: &weights, side: Some(side) };
            for (got, want) in layer.run(None, 8, 1).iter().zip(&exact) {
                let error = (f64::from(*got) - want).abs() / largest;
                prop_assert!(error < bound, "{:?}: {} of {}: {}", side, got, want, error);
            }
        }
    }
}
