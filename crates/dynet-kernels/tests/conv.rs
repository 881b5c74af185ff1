//! Convolutions of every instruction set against the naive one.

use dynet_kernels::*;

/// A stream of pseudo-random numbers (a 64-bit linear congruential generator, Knuth's constants).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next() as f32 / (1u64 << 30) as f32 - 1.0).collect()
    }
}

const GUARD: f32 = 77.0;

#[test]
fn convolutions_equal_the_naive_ones() {
    let mut r = Random(1);
    for isa in Isa::available() {
        for case in 0..400 {
            one(isa, &mut r, case);
        }
    }
}

fn one(isa: Isa, r: &mut Random, case: usize) {
    let kernel = [r.pick(&[1, 1, 3, 2, 5]), r.pick(&[1, 3, 3, 4])];
    let kernel = if case.is_multiple_of(2) { [1, 1] } else { kernel };
    let geometry = Geometry {
        input: [r.below(9) + 4, r.below(9) + 4],
        kernel,
        stride: [r.below(3) + 1, r.below(2) + 1],
        padding: [r.below(3), r.below(3)],
        dilation: [r.pick(&[1, 1, 2]), r.pick(&[1, 1, 3])],
    };
    let geometry = if case.is_multiple_of(4) {
        Geometry { stride: [1, 1], padding: [0, 0], dilation: [1, 1], ..geometry }
    } else {
        geometry
    };
    let kind = r.below(3);
    let experts = r.pick(&[1, 1, 2, 3, 4, 6, 8, 9, 16]);
    let (groups, c_in, c_out) = match kind {
        0 => (1, r.below(40) + 1, r.below(100) + 1),
        1 => {
            let c = r.below(100) + 1;
            (c, 1, c)
        }
        _ => {
            let g = r.below(9) + 1;
            let i = r.below(7) + 1;
            (g, i, g * (r.below(8) + 1))
        }
    };
    let pixels = geometry.pixels();
    if pixels == 0 {
        return;
    }
    let ld = groups * c_in + r.below(5);
    let border = if kind == 0 {
        r.pick(&[Border::Zeros, Border::Reflect, Border::Replicate, Border::Circular])
    } else {
        Border::Zeros
    };
    let x = r.values(geometry.input[0] * geometry.input[1] * ld);
    let shape = KernelShape { experts, c_out, c_in, taps: geometry.taps() };
    let fixed = r.values(shape.len().expect("a small shape"));
    let coef = r.values(experts * c_out);
    let bias = r.values(c_out);
    let residual_ld = c_out + r.below(3);
    let residual = r.values(pixels * residual_ld);
    let act = r.pick(&Activation::ALL);
    let storage = r.pick(&[Storage::F32, Storage::Bf16, Storage::Int8]);
    let packed = Panels::pack(isa, storage, shape, &fixed);
    let view = Pixels::new(&x, ld);
    let epilogue = Epilogue {
        bias: (r.below(2) == 0).then_some(&bias),
        residual: (r.below(2) == 0).then_some(Pixels::new(&residual, residual_ld)),
        act,
    };
    let dynamic = experts > 1 || r.below(2) == 0;
    let coefs = dynamic.then(|| Coefs::new(&coef, c_out));
    let ones = vec![1.0; experts * c_out];
    // The reference reads the stored weights, so that only the arithmetic is compared.
    let mut stored = Vec::new();
    for e in 0..experts {
        for c in 0..c_out {
            for i in 0..c_in {
                for t in 0..geometry.taps() {
                    stored.push(packed.value(e, c, t * c_in + i));
                }
            }
        }
    }
    let weights = reference::fuse(&stored, if dynamic { &coef } else { &ones }, c_out, shape.k());
    let exact = reference::conv(view, &geometry, border, &weights, c_out, groups);
    let out_ld = c_out + r.below(4);
    let mut out = vec![GUARD; pixels * out_ld];
    let mut sums = vec![GUARD; c_out];
    let grid = Grid {
        images: 1,
        pixels,
        channels: c_out,
        ld: out_ld,
        pixel_block: geometry.output()[1] * (r.below(5) + 1),
        channel_block: isa.nr() * (r.below(3) + 1),
    };
    let chunks = grid.pixel_blocks();
    let mut partial = vec![GUARD; chunks * c_out];
    {
        let shared = SharedOut::new(&mut out, 0, grid);
        let sum_grid = Grid {
            images: 1,
            pixels: chunks,
            channels: c_out,
            ld: c_out,
            pixel_block: 1,
            channel_block: grid.channel_block,
        };
        let shared_sums = SharedOut::new(&mut partial, 0, sum_grid);
        let taps = Taps::new(&geometry, border);
        for index in 0..grid.tiles() {
            let mut tile = shared.take_index(index);
            let sum = shared_sums.take_index(index);
            if kind == 0 {
                let pointwise = geometry.is_pointwise() && r.below(2) == 0;
                let c = Conv {
                    x: view,
                    taps: (!pointwise).then_some(&taps),
                    weights: &packed,
                    coefs,
                    groups: 1,
                    input_scale: None,
                    epilogue,
                };
                let mut scratch = vec![0.0; Conv::scratch_len(&packed)];
                conv(isa, &c, &mut scratch, &mut tile, Some(sum));
            } else {
                let c =
                    GroupedConv { x: view, geometry: &geometry, weights: &packed, coefs, groups, epilogue };
                let mut scratch = vec![0.0; GroupedConv::scratch_len(&packed, &geometry)];
                grouped(isa, &c, &mut scratch, &mut tile, Some(sum));
            }
        }
    }
    pixelwise::combine_sums(&partial, 1.0, &mut sums);
    let what = format!(
        "{isa} case {case}: {geometry:?} groups {groups} c_in {c_in} c_out {c_out} experts {experts} {storage:?} {act:?}"
    );
    let mut exact_sums = vec![0.0; c_out];
    for p in 0..pixels {
        for c in 0..out_ld {
            let got = f64::from(out[p * out_ld + c]);
            if c >= c_out {
                assert_eq!(got, f64::from(GUARD), "{what}: wrote behind the channels");
                continue;
            }
            let mut want = exact[p * c_out + c];
            if let Some(b) = epilogue.bias {
                want += f64::from(b[c]);
            }
            if let Some(x) = epilogue.residual {
                want += f64::from(x.data[p * x.ld + c]);
            }
            let want = reference::activate(act, want);
            exact_sums[c] += want;
            // Terms are below 1 x 1 x experts; each of at most 800 x 16 adds half an ULP of a sum of a few dozen.
            assert!(
                (got - want).abs() <= 2e-5 * (1.0 + want.abs()),
                "{what}: pixel {p} channel {c}: {got} of {want}"
            );
        }
    }
    for c in 0..c_out {
        assert!(
            (f64::from(sums[c]) - exact_sums[c]).abs()
                < 1e-4 * (1.0 + exact_sums[c].abs()) + 1e-5 * pixels as f64,
            "{what}: sum {c}: {} of {}",
            sums[c],
            exact_sums[c]
        );
    }
}
