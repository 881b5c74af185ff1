//! Operations on pixels against naive ones.

use dynet_kernels::*;

use crate::random::Random;

/// Stands where nothing may be written.
const GUARD: f32 = 77.0;

/// A map of random sizes: pixels, channels, values from pixel to pixel.
fn sizes(r: &mut Random) -> [usize; 3] {
    let (pixels, channels) = (r.below(30) + 1, r.below(100) + 1);
    [pixels, channels, channels + r.below(5)]
}

/// Activation, addition and scaling, tile by tile.
pub(crate) fn elementwise(isa: Isa, r: &mut Random, what: &str) {
    let [pixels, channels, ld] = sizes(r);
    let (x, y, factors) = (r.values(pixels * ld), r.values(pixels * ld), r.values(channels));
    let act = r.pick(&Activation::ALL);
    let operation = r.below(3);
    let (every, runs, channel_block) = (r.below(pixels) + 1, r.below(3) + 1, r.below(channels) + 1);
    let grid = Grid { images: 1, pixels, channels, ld, pixel_block: every * runs, channel_block };
    let mut out = vec![GUARD; pixels * ld];
    let mut partial = vec![GUARD; pixels.div_ceil(every) * channels];
    let sum_grid = Grid { pixels: pixels.div_ceil(every), ld: channels, pixel_block: runs, ..grid };
    let (shared, sums) = (SharedOut::new(&mut out, 0, grid), SharedOut::new(&mut partial, 0, sum_grid));
    let [px, py] = [Pixels::new(&x, ld), Pixels::new(&y, ld)];
    for index in 0..grid.tiles() {
        let (mut tile, sum) = (shared.take_index(index), Some(Sums::new(sums.take_index(index), every)));
        match operation {
            0 => pixelwise::activate(isa, px, act, &mut tile, sum),
            1 => pixelwise::add(isa, [px, py], act, &mut tile, sum),
            _ => pixelwise::scale(isa, px, &factors, act, &mut tile, sum),
        }
    }
    let mut total = vec![GUARD; channels];
    pixelwise::combine_sums(&partial, 0.5, &mut total);
    let mut exact = vec![0.0; channels];
    for (i, got) in out.iter().enumerate() {
        let c = i % ld;
        if c >= channels {
            assert_eq!(*got, GUARD, "{what}: wrote behind the channels");
            continue;
        }
        let before = match operation {
            0 => f64::from(x[i]),
            1 => f64::from(x[i] + y[i]),
            _ => f64::from(x[i] * factors[c]),
        };
        let want = reference::activate(act, before);
        exact[c] += want / 2.0;
        // A few roundings of values up to 6.
        assert!(
            (f64::from(*got) - want).abs() < 1e-6,
            "{what}: {act:?} {operation} value {i}: {got} of {want}"
        );
    }
    for (got, want) in total.iter().zip(exact) {
        assert!((f64::from(*got) - want).abs() < 1e-5, "{what}: sum {got} of {want}");
    }
}

pub(crate) fn sums(isa: Isa, r: &mut Random, what: &str) {
    let [pixels, channels, ld] = sizes(r);
    let x = r.values(pixels * ld);
    let first = r.below(pixels);
    let mut out = vec![GUARD; channels];
    pixelwise::sums(isa, Pixels::new(&x, ld), first, pixels - first, &mut out);
    for (c, got) in out.iter().enumerate() {
        let want: f64 = (first..pixels).map(|p| f64::from(x[p * ld + c])).sum();
        // 30 additions of values below 1.
        assert!((f64::from(*got) - want).abs() < 1e-5, "{what}: channel {c}: {got} of {want}");
    }
    // Those of a tile, of what lies there, are the same.
    let mut map = x;
    let mut sums = vec![GUARD; channels + 1];
    let mut tile = Tile::whole(&mut map, pixels, channels, ld);
    let mut sum = Sums::new(Tile::whole(&mut sums[..channels], 1, channels, channels), pixels);
    pixelwise::tile_sums(isa, &mut tile.rows(first, pixels - first), &mut sum);
    assert_eq!(sums[..channels], out, "{what}");
    assert_eq!(sums[channels], GUARD, "{what}");
}

pub(crate) fn max_pool(isa: Isa, r: &mut Random, what: &str) {
    let k = r.below(3) + 1;
    let g = Geometry {
        padding: [r.below(k), r.below(k)],
        ..Geometry::same([r.below(9) + 3, r.below(9) + 3], k, r.below(3) + 1)
    };
    let channels = r.below(70) + 1;
    let ld = channels + r.below(3);
    let x = r.values(g.input[0] * g.input[1] * ld);
    let [height, width] = g.output();
    let mut out = vec![GUARD; height * width * channels];
    let mut tile = Tile::whole(&mut out, height * width, channels, channels);
    // The upper rows, then the others from the part of the map that they read.
    let (cut, row) = (r.below(height + 1), g.input[1] * ld);
    pixelwise::max_pool(isa, Pixels::new(&x, ld), 0, &g, &mut tile.rows(0, cut * width));
    let origin = if cut < height { g.rows_read(cut..height).start } else { 0 };
    let part = Pixels::new(&x[origin * row..], ld);
    pixelwise::max_pool(isa, part, origin, &g, &mut tile.rows(cut * width, (height - cut) * width));
    for (i, got) in out.iter().enumerate() {
        let (c, p) = (i % channels, i / channels);
        let mut want = f32::NEG_INFINITY;
        for (ky, kx) in (0..k).flat_map(|y| (0..k).map(move |x| (y, x))) {
            let row = (p / width * g.stride[0] + ky).wrapping_sub(g.padding[0]);
            let column = (p % width * g.stride[1] + kx).wrapping_sub(g.padding[1]);
            if row < g.input[0] && column < g.input[1] {
                want = want.max(x[(row * g.input[1] + column) * ld + c]);
            }
        }
        assert_eq!(*got, want, "{what}: {g:?} pixel {p} channel {c}");
    }
}

pub(crate) fn softmax(isa: Isa, r: &mut Random, what: &str) {
    let (channels, experts) = (r.below(100) + 1, r.below(16) + 1);
    let temperature = r.pick(&[1.0, 0.25, 30.0]);
    let before: Vec<f32> = r.values(channels * experts).iter().map(|x| 9.0 * x).collect();
    let mut coefs = before.clone();
    pixelwise::softmax(isa, channels, temperature, &mut coefs);
    for c in 0..channels {
        let value = |e: usize| (f64::from(before[e * channels + c]) / f64::from(temperature)).exp();
        let sum: f64 = (0..experts).map(value).sum();
        for e in 0..experts {
            let (got, want) = (f64::from(coefs[e * channels + c]), value(e) / sum);
            // Exponents reach 36: an argument's rounding is worth 36 ULP, 4e-6 of the value.
            assert!((got - want).abs() <= 1e-5 * want + 1e-12, "{what}: {e}, {c}: {got} of {want}");
        }
    }
}

/// A fixed kernel that is multiplied with less would be made of subnormal numbers, for which Intel's cores take many
/// times as long.
#[test]
fn coefficients_that_vanish_are_zeros() {
    for isa in Isa::available() {
        let logits = [0.0, -40.0, -70.0, -87.0, -1e3, -1e11];
        let mut coefs = logits.to_vec();
        pixelwise::softmax(isa, 1, 1.0, &mut coefs);
        assert_eq!(coefs[0], 1.0, "{isa}: {coefs:?}");
        let small = f64::from(coefs[1]);
        assert!((small / (-40.0_f64).exp() - 1.0).abs() < 1e-5, "{isa}: {coefs:?}");
        assert_eq!(coefs[2..], [0.0; 4], "{isa}");
        let sigmoid = |x: &[f32]| {
            let mut out = vec![GUARD; x.len()];
            let mut tile = Tile::whole(&mut out, 1, x.len(), x.len());
            pixelwise::activate(isa, Pixels::new(x, x.len()), Activation::Sigmoid, &mut tile, None);
            out
        };
        let shares = sigmoid(&logits);
        assert_eq!((shares[0], &shares[2..]), (0.5, &[0.0; 4][..]), "{isa}");
        assert_eq!(sigmoid(&logits.map(|x| -x))[1..], [1.0; 5], "{isa}");
        let mut bad = [f32::NAN, 0.0];
        pixelwise::softmax(isa, 1, 1.0, &mut bad);
        assert!(bad.iter().all(|c| c.is_nan()), "{isa}: {bad:?}");
    }
}

#[test]
fn copies_put_every_value_where_it_belongs() {
    let r = &mut Random(3);
    let all: Vec<Isa> = Isa::available().collect();
    for case in 0..100 {
        let isa = all[case % all.len()];
        let g = Geometry {
            padding: [r.below(3), r.below(3)],
            ..Geometry::same([r.below(5) + 3, r.below(40) + 3], 1, 1)
        };
        let [h, w] = g.input;
        let [height, width] = [h + 2 * g.padding[0], w + 2 * g.padding[1]];
        let other = r.below(20) + 1;
        let c = r.pick(&[1, 3, 3, other]);
        let planes = r.values(c * h * w);
        let mut last = vec![GUARD; height * width * c];
        copy::image(isa, &planes, &g, &mut Tile::whole(&mut last, height * width, c, c));
        let mut plain = vec![GUARD; h * w * c];
        let flat = Geometry { padding: [0, 0], ..g };
        copy::image(isa, &planes, &flat, &mut Tile::whole(&mut plain, h * w, c, c));
        let mut bordered = vec![GUARD; height * width * c];
        let x = Pixels::new(&plain, c);
        copy::border(x, &g, Border::Zeros, &mut Tile::whole(&mut bordered, height * width, c, c));
        let mut copied = vec![GUARD; h * w * c];
        copy::copy(x, &mut Tile::whole(&mut copied, h * w, c, c));
        assert_eq!(copied, plain);
        for (i, got) in last.iter().enumerate() {
            let (p, channel) = (i / c, i % c);
            let row = (p / width).wrapping_sub(g.padding[0]);
            let column = (p % width).wrapping_sub(g.padding[1]);
            let inside = row < h && column < w;
            let want = if inside { planes[(channel * h + row) * w + column] } else { 0.0 };
            assert_eq!([*got, bordered[i]], [want; 2], "{g:?} pixel {p} channel {channel}");
        }
    }
}

#[test]
fn a_shuffle_is_the_transposed_groups_of_the_concatenation() {
    let r = &mut Random(4);
    for _ in 0..50 {
        let (pixels, groups, each) = (r.below(9) + 1, r.below(4) + 1, r.below(30) + 1);
        let c = groups * each;
        // Parts of whole groups, and others.
        let first = if r.coin() { r.below(groups + 1) * each } else { r.below(c + 1) };
        let (a, b) = (r.values(pixels * c), r.values(pixels * c));
        let parts = [(Pixels::new(&a, c), first), (Pixels::new(&b, c), c - first)];
        for isa in Isa::available() {
            let mut out = vec![GUARD; pixels * c];
            copy::shuffle(isa, &parts, groups, &mut Tile::whole(&mut out, pixels, c, c));
            for (i, got) in out.iter().enumerate() {
                let (p, to) = (i / c, i % c);
                let from = to % groups * each + to / groups;
                let want = if from < first { a[p * c + from] } else { b[p * c + from - first] };
                assert_eq!(
                    *got, want,
                    "{isa}: {groups} groups of {each}, {first} channels first: channel {to}"
                );
            }
        }
    }
}
