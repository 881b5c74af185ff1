//! Convolutions with few channels in a group: output channels of several groups share a register.
//!
//! A window slides along a row of the image. Every input pixel is fetched once for each row of the kernel and added to
//! all the output pixels of a tile that it reaches, which stay in registers:
//!
//! ```text
//! for each tile of TX columns, for each row of the output:
//!     acc[0..TX] = bias
//!     for each row ky of the kernel that lies inside the image, for each input i of a group:
//!         w[0..KW] = panel[ky][0..KW][i]
//!         for each column that the tile reaches and that lies inside the image:
//!             x = its channels; lane l holds input i of the group of output channel l
//!             acc[t] += x * w[kx] wherever t * S + kx is this column
//! ```
//!
//! In a depthwise convolution lane `l` is channel `l`. Groups of five to eight outputs fill a register of eight lanes
//! each, whose inputs are broadcast; where a core multiplies two such registers in the time of one of 16 lanes, that is
//! three quarters of its peak for groups of six, whatever the stride. Elsewhere, and where a core multiplies two registers of 16
//! lanes as fast, a permutation of two registers puts the inputs into their lanes, one for each fetch, which serves `KW`
//! multiplications.
//!
//! How far from its floor, one core of a Zen 4 (118 GFLOP/s, one 64-byte load a cycle): 3x3 with stride 1 takes 1.2 to 1.5
//! times its multiplications; 5x5 reaches them, as it skips the columns outside the image. 3x3 with stride 2 takes 2.3
//! times: an input serves 2.25 multiplications on average, channels that are no multiple of 16 make every second load
//! touch two lines, and strips of 15 pixels of one register of channels are no stream that the hardware reads ahead.
//! Groups of six take about 1.7 times with stride 1 where a panel cuts no group, 2 to 2.5 where one does (maps of 7x7 more), and 2.3
//! to 4 times with stride 2. A core of a Sapphire Rapids (190 GFLOP/s), which permutes them: 1.4 to 1.7 times with stride 1, 2.5 with
//! stride 2, where two loads that cross lines for each permutation hold it up; by group 2.6 to 3. 18 channels, of which two are left for a
//! register of their own, 2.6. Where registers are few, see `strip.rs`.

use crate::activation::Activation;
use crate::generic::LINE_BYTES;
use crate::generic::fetch::{Broadcast, Fetch, Gathered, MAX_INPUTS, Permuted, Straight};
use crate::generic::gemm::FAR_BYTES;
use crate::generic::slide::{Acc, any, slide};
use crate::geometry::Geometry;
use crate::vector::{Job, Vector};

/// One panel of output channels of a grouped convolution, weights fused. Pointers are at the panel's first output
/// channel, those of outputs at the first row to compute, all others at the image's first pixel.
///
/// Row `(tap, i)` of the panel holds for each output channel its weight of the `i`-th input of its group.
#[derive(Clone, Copy)]
pub(crate) struct GroupedPanel<'a> {
    pub(crate) geometry: &'a Geometry,
    /// Channel 0 of the input.
    pub(crate) x: *const f32,
    pub(crate) x_ld: usize,
    /// Channels of a group: inputs, outputs.
    pub(crate) group: [usize; 2],
    /// One past the last input channel that is read.
    pub(crate) inputs: usize,
    /// `[tap][input of the group][nr]`.
    pub(crate) panel: *const f32,
    /// The panel's first output channel.
    pub(crate) channel0: usize,
    /// Output channels.
    pub(crate) cols: usize,
    /// Rows of the output to compute.
    pub(crate) rows: [usize; 2],
    pub(crate) out: *mut f32,
    pub(crate) out_ld: usize,
    /// Null for none.
    pub(crate) bias: *const f32,
    /// At the first row to compute; null for none.
    pub(crate) residual: *const f32,
    pub(crate) residual_ld: usize,
    pub(crate) act: Activation,
    /// Sums over the pixels of two rows each are added here; null for none.
    pub(crate) sums: *mut f32,
    /// From one such sum to the next; 0 for one sum over all rows.
    pub(crate) sums_ld: usize,
}

impl Job for GroupedPanel<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        if !v.multiplies_whole() {
            return self.bands(v, self.is_by_group::<V::Half>());
        }
        // A few last columns in half a register, whose permutations take no multiplication's place.
        let tail = self.cols % V::LANES;
        let whole = self.cols - tail;
        let apart = self.group[0] > 1 && (1..=V::Half::LANES).contains(&tail);
        if !(apart && self.columns(whole, tail).fits::<V::Half>(0, tail)) {
            return self.bands(v, false);
        }
        if whole > 0 {
            self.columns(0, whole).bands(v, false);
        }
        self.columns(whole, tail).bands(v, true);
    }
}

impl GroupedPanel<'_> {
    /// All columns of pixels, by bands. `in_halves`: with half registers, which have the output channels of one group each, or are but one.
    #[inline(always)]
    fn bands<V: Vector>(self, v: V, in_halves: bool) {
        let g = self.geometry;
        // Kernels and strides for which the loop is unrolled; 0 stands for any.
        let square = g.dilation == [1, 1] && g.kernel[0] == g.kernel[1] && g.stride[0] == g.stride[1];
        let square = square && g.padding[1] <= g.kernel[1] / 2;
        // Four lanes are not worth the code.
        let known = if square && V::LANES > 4 && (in_halves || self.fetched_by_register::<V>()) {
            (g.kernel[0], g.stride[0])
        } else {
            (0, 0)
        };
        let width = g.output()[1];
        let half = v.half();
        let mut x0 = 0;
        macro_rules! bands {
            ($($tx:literal)*) => {
                $({
                    let tiles = if tiles_of(width - x0) == $tx { (width - x0) / $tx } else { 0 };
                    let panel = self;
                    match known {
                        _ if tiles == 0 => {}
                        (3, 1) if in_halves => half.call_apart(Halves(Band::<3, 1, $tx> { x0, tiles, panel })),
                        (3, 2) if in_halves => half.call_apart(Halves(Band::<3, 2, $tx> { x0, tiles, panel })),
                        (5, 1) if in_halves => half.call_apart(Halves(Band::<5, 1, $tx> { x0, tiles, panel })),
                        (5, 2) if in_halves => half.call_apart(Halves(Band::<5, 2, $tx> { x0, tiles, panel })),
                        (3, 1) => v.call_apart(Band::<3, 1, $tx> { x0, tiles, panel }),
                        (3, 2) => v.call_apart(Band::<3, 2, $tx> { x0, tiles, panel }),
                        (5, 1) => v.call_apart(Band::<5, 1, $tx> { x0, tiles, panel }),
                        (5, 2) => v.call_apart(Band::<5, 2, $tx> { x0, tiles, panel }),
                        _ => v.call_apart(Band::<0, 0, 1> { x0, tiles: tiles * $tx, panel }),
                    }
                    x0 += tiles * $tx;
                })*
            };
        }
        bands!(7 4 1);
        debug_assert_eq!(x0, width, "bands cover a row");
    }

    /// Output channels `first..first + cols` of the panel.
    #[inline(always)]
    fn columns(mut self, first: usize, cols: usize) -> Self {
        let at = |p: *const f32| if p.is_null() { p } else { p.wrapping_add(first) };
        (self.channel0, self.cols) = (self.channel0 + first, cols);
        (self.panel, self.out) = (self.panel.wrapping_add(first), self.out.wrapping_add(first));
        (self.bias, self.residual) = (at(self.bias), at(self.residual));
        self.sums = at(self.sums).cast_mut();
        self
    }

    /// Where the sums of row `y` and the one below or above it are.
    #[inline(always)]
    fn sums_at(&self, y: usize) -> *mut f32 {
        self.sums.wrapping_add((y - self.rows[0]) / 2 * self.sums_ld)
    }

    /// Adds what was stored in row `y`, or in it and the one below, for `lanes` columns from `c` on to the sums.
    ///
    /// # Safety
    /// The row and the columns must be the panel's.
    #[inline(always)]
    pub(crate) unsafe fn add_up<V: Vector>(
        &self,
        v: V,
        y: usize,
        (c, lanes): (usize, usize),
        stored: V::Reg,
    ) {
        if !self.sums.is_null() {
            let sums = self.sums_at(y).wrapping_add(c);
            // SAFETY: each two rows have as many sums as there are columns.
            unsafe { v.store_some(sums, v.add(v.load_some(sums, lanes), stored), lanes) };
        }
    }

    /// Input 0 of the group of lane `l` of the `lanes` from column `c` on; lanes without a channel do as the last one.
    #[inline(always)]
    fn input(&self, c: usize, lanes: usize, l: usize) -> usize {
        (self.channel0 + c + l.min(lanes - 1)) / self.group[1] * self.group[0]
    }

    /// Whether two registers hold all the inputs of the groups that meet in a register of outputs at column `c`.
    #[inline(always)]
    fn fits<V: Vector>(&self, c: usize, lanes: usize) -> bool {
        let span = self.input(c, lanes, lanes - 1) + self.group[0] - self.input(c, lanes, 0);
        self.group[0] <= MAX_INPUTS && span <= 2 * V::LANES
    }

    /// How the inputs of `lanes` outputs from column `c` on come into their lanes, which [fits](Self::fits).
    #[inline(always)]
    fn permuted<V: Vector>(&self, v: V, c: usize, lanes: usize) -> Permuted<V> {
        let channel = self.input(c, lanes, 0);
        let mut index = [v.index(|_| 0); MAX_INPUTS];
        for (i, index) in index.iter_mut().enumerate().take(self.group[0]) {
            *index = v.index(|l| self.input(c, lanes, l) - channel + i);
        }
        Permuted { channel, lanes: self.inputs - channel, index }
    }

    /// Whether a register of outputs has one group, which then fills more than half of it.
    #[inline(always)]
    fn is_by_group<V: Vector>(&self) -> bool {
        V::LANES > 4 && self.group[1] > V::LANES / 2 && self.group[1] <= V::LANES
    }

    /// Whether two registers do for all columns.
    #[inline(always)]
    fn fetched_by_register<V: Vector>(&self) -> bool {
        (0..self.cols).step_by(V::LANES).all(|c| self.fits::<V>(c, (self.cols - c).min(V::LANES)))
    }
}

/// Pairs of tiles that are computed for one group before the next one.
const CHUNK_TILES: usize = 8;

/// The widest tile for a rest of `width` pixels: 7 divides the maps of 224 x 224 images, 4 those of powers of two.
fn tiles_of(width: usize) -> usize {
    match width {
        _ if width.is_multiple_of(7) => 7,
        4.. => 4,
        _ => 1,
    }
}

/// A band of columns: `tiles` tiles of `TX` pixels each in every row, `K` and `S` the kernel's side and stride.
pub(crate) struct Band<'a, const K: usize, const S: usize, const TX: usize> {
    pub(crate) x0: usize,
    pub(crate) tiles: usize,
    pub(crate) panel: GroupedPanel<'a>,
}

impl<const K: usize, const S: usize, const TX: usize> Job for Band<'_, K, S, TX> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        if K == 0 || V::LANES * size_of::<f32>() >= LINE_BYTES {
            return self.registers(v);
        }
        // Several registers of channels share a line, which is fetched once if they take turns at a few tiles.
        let mut y = self.panel.rows[0];
        while y < self.panel.rows[1] {
            let mut tile = 0;
            let mut part = self.few_rows(y, CHUNK_TILES / 2);
            while tile < self.tiles {
                part.x0 = self.x0 + tile * TX;
                part.tiles = (self.tiles - tile).min(CHUNK_TILES / 2);
                part.registers(v);
                tile += part.tiles;
            }
            y = part.panel.rows[1];
        }
    }
}

/// A band whose registers have the output channels of one group each, or those of them that the panel has: each input
/// is broadcast. Or of several groups, if one register has them all.
struct Halves<'a, const K: usize, const S: usize, const TX: usize>(Band<'a, K, S, TX>);

impl<const K: usize, const S: usize, const TX: usize> Job for Halves<'_, K, S, TX> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let p = &self.0.panel;
        if p.cols <= V::LANES
            && p.input(0, p.cols, p.cols - 1) > p.input(0, p.cols, 0)
            && p.fits::<V>(0, p.cols)
        {
            return self.0.register(v, 0, p.cols, &p.permuted(v, 0, p.cols));
        }
        let mut y = p.rows[0];
        while y < p.rows[1] {
            let band = self.0.few_rows(y, self.0.tiles);
            let mut c = 0;
            while c < p.cols {
                let lanes = (p.group[1] - (p.channel0 + c) % p.group[1]).min(p.cols - c);
                band.register(v, c, lanes, &Broadcast { channel: p.input(c, lanes, 0), lanes });
                c += lanes;
            }
            y = band.panel.rows[1];
        }
    }
}

impl<const K: usize, const S: usize, const TX: usize> Band<'_, K, S, TX> {
    /// The rows from `y` on that are computed for one group, or register, before the next one, where that takes `tiles`
    /// tiles of each row: a few, so that reading goes along rows, which memory likes, and finds them in the first cache
    /// for all groups but the first.
    #[inline(always)]
    fn few_rows(&self, y: usize, tiles: usize) -> Self {
        let [from, to] = self.panel.rows;
        let at = (y - from) * self.panel.geometry.output()[1];
        let mut panel = self.panel;
        panel.rows = [y, to.min(y + 2 * CHUNK_TILES.div_ceil(tiles.min(self.tiles)))];
        panel.out = panel.out.wrapping_add(at * panel.out_ld);
        panel.sums = self.panel.sums_at(y);
        if !panel.residual.is_null() {
            panel.residual = panel.residual.wrapping_add(at * panel.residual_ld);
        }
        Self { panel, ..*self }
    }

    /// All tiles of the band, a register of output channels after the other.
    #[inline(always)]
    fn registers<V: Vector>(&self, v: V) {
        let p = &self.panel;
        for c in (0..p.cols).step_by(V::LANES) {
            let lanes = (p.cols - c).min(V::LANES);
            let channel = p.input(c, lanes, 0);
            if p.group == [1, 1] && !V::FREE_MASKS && lanes == V::LANES {
                self.register(v, c, lanes, &Straight::<true> { channel, lanes });
            } else if p.group == [1, 1] {
                self.register(v, c, lanes, &Straight::<false> { channel, lanes });
            } else if K == 0 {
                let channels = std::array::from_fn(|l| p.input(c, lanes, l));
                self.register(v, c, lanes, &Gathered { channels });
            } else {
                self.register(v, c, lanes, &p.permuted(v, c, lanes));
            }
        }
    }

    /// All tiles of the band for the output channels of one register, `lanes` from column `c` of the panel on.
    #[inline(always)]
    fn register<V: Vector, F: Fetch<V>>(&self, v: V, c: usize, lanes: usize, fetch: &F) {
        // Copies: the compiler cannot know that stores through pointers leave the job alone.
        let p = self.panel;
        let g = *p.geometry;
        let width = g.output()[1];
        let far = g.pixels() * p.out_ld * size_of::<f32>() >= FAR_BYTES;
        // SAFETY: `grouped` checked that the image, the panel, bias, residual and output reach as far as their sizes
        // say; the output is this thread's.
        unsafe {
            let bias = if p.bias.is_null() { v.splat(0.0) } else { v.load_some(p.bias.add(c), lanes) };
            let w = p.panel.add(c);
            let bounds = if p.residual.is_null() { p.act.bounds() } else { None };
            let mut tiles = self.tiles;
            if V::MR <= 8 && K > 0 {
                // Few registers.
                self.strips(v, fetch, [c, lanes], bias, bounds);
                tiles = 0;
            }
            for tile in 0..tiles {
                let x = self.x0 + tile * TX;
                let mut y = p.rows[0];
                // Two rows at once where the registers allow: each input then serves up to 2 K multiplications.
                while K == 3 && (S == 1 || V::ROW > 2 * V::LANES) && V::MR > 8 && y + 2 <= p.rows[1] {
                    if far {
                        expect::<V, TX, 2>(v, (&p, &g), c, [y, x]);
                    }
                    let acc = slide::<V, F, K, S, TX, 2>(v, fetch, (&p, &g), w, [y, x], bias);
                    let at = ((y - p.rows[0]) * width + x, width);
                    let of_tile = finish::<V, F, TX, _>(v, (&p, bounds), acc, at, (c, lanes));
                    p.add_up(v, y, (c, lanes), of_tile);
                    y += 2;
                }
                while y < p.rows[1] {
                    if far {
                        expect::<V, TX, 1>(v, (&p, &g), c, [y, x]);
                    }
                    let acc = if K > 0 {
                        slide::<V, F, K, S, TX, 1>(v, fetch, (&p, &g), w, [y, x], bias)
                    } else {
                        any::<V, F, TX>(v, fetch, (&p, &g), w, [y, x], bias)
                    };
                    let at = ((y - p.rows[0]) * width + x, width);
                    let of_tile = finish::<V, F, TX, _>(v, (&p, bounds), acc, at, (c, lanes));
                    p.add_up(v, y, (c, lanes), of_tile);
                    y += 1;
                }
            }
        }
    }
}

/// Asks for the lines that the tile at output pixel `(y, x)` writes.
#[inline(always)]
fn expect<V: Vector, const TX: usize, const TY: usize>(
    v: V,
    (p, g): (&GroupedPanel<'_>, &Geometry),
    c: usize,
    [y, x]: [usize; 2],
) {
    // Two registers of eight lanes share a line.
    if !(c * size_of::<f32>()).is_multiple_of(LINE_BYTES) {
        return;
    }
    for i in 0..TX * TY {
        let pixel = (y - p.rows[0] + i / TX) * g.output()[1] + x + i % TX;
        v.prefetch_to_write(p.out.wrapping_add(pixel * p.out_ld + c));
    }
}

/// Adds the residual, applies the activation and stores a tile; from output pixel `at` of the rows on, which are `width` pixels
/// wide; returns the sum of what it stored. `bounds` are the activation's if it is a clamp and there is no residual.
///
/// # Safety
/// As in [`Band::register`].
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector, F: Fetch<V>, const TX: usize, const TY: usize>(
    v: V,
    (p, bounds): (&GroupedPanel<'_>, Option<[f32; 2]>),
    acc: Acc<V, TX, TY>,
    (at, width): (usize, usize),
    (c, lanes): (usize, usize),
) -> V::Reg {
    let mut of_tile = v.splat(0.0);
    if let Some([lo, hi]) = bounds {
        let (lo, hi) = (v.splat(lo), v.splat(hi));
        for (o, acc) in acc.iter().enumerate() {
            let mut out = p.out.wrapping_add((at + o * width) * p.out_ld + c);
            for acc in acc {
                let result = v.min(hi, v.max(lo, *acc));
                // SAFETY: a pixel of the output.
                unsafe { if F::WHOLE { v.store(out, result) } else { v.store_some(out, result, lanes) } };
                out = out.wrapping_add(p.out_ld);
                of_tile = v.add(of_tile, result);
            }
        }
        return of_tile;
    }
    // Through memory: one copy of the longer code serves all accumulators.
    for i in 0..TX * TY {
        let at = at + i / TX * width + i % TX;
        let mut result = acc.as_flattened()[i];
        // SAFETY: a pixel of the output, which the residual reaches as far as.
        unsafe {
            if !p.residual.is_null() {
                result = v.add(result, v.load_some(p.residual.add(at * p.residual_ld + c), lanes));
            }
            result = p.act.apply(v, result);
            v.store_some(p.out.add(at * p.out_ld + c), result, lanes);
        }
        of_tile = v.add(of_tile, result);
    }
    of_tile
}
