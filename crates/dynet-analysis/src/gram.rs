//! The matrix of second moments, `X^T X`, of a stream of rows: the one expensive product of the analysis.

use rayon::prelude::*;

/// Rows of a block. Products within a block are added in f32, blocks in f64: an entry errs by about
/// `sqrt(128) * 2^-24 = 7e-7` of one block's sum, and the more blocks there are, the less.
const BLOCK: usize = 128;
/// Columns of a panel. A tile is 4 x 8 sums in 8 registers of four, one pass over two panels.
const LANES: usize = 8;
const HALF: usize = LANES / 2;
/// Values that wait before they are multiplied, so that threads have something to share: 2 MB a layer, which 50 layers at
/// once can afford.
const MAX_WAITING: usize = 1 << 19;

/// Sums `x_i x_j` and `x_i` over rows, about a shift that the first row gives.
///
/// Rows go into blocks of a fixed number of rows, whoever hands them over: neither the split of the stream into
/// calls nor the number of threads shows in the bits.
#[derive(Clone, Debug)]
pub(crate) struct Gram {
    columns: usize,
    panels: usize,
    /// Subtracted from every row: the first row, which keeps sums of squares from cancelling.
    shift: Vec<f32>,
    centred: bool,
    /// Blocks `[panel][row][lane]`, the last one filled up to `filled` rows.
    waiting: Vec<f32>,
    filled: usize,
    rows: u64,
    sums: Vec<f64>,
    /// Row `i` of tiles begins with tile `(i, i)`: `[8][8]` sums each.
    tiles: Vec<Vec<f64>>,
}

impl Gram {
    /// Of rows with this many columns. `centred`: the first row is subtracted from all, for covariances.
    pub(crate) fn new(columns: usize, centred: bool) -> Self {
        let panels = columns.div_ceil(LANES);
        Self {
            columns,
            panels,
            shift: Vec::new(),
            centred,
            waiting: Vec::new(),
            filled: BLOCK,
            rows: 0,
            sums: vec![0.0; columns],
            tiles: (0..panels).map(|i| vec![0.0; (panels - i) * LANES * LANES]).collect(),
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds `count` rows; `value(row, column)` reads one value.
    pub(crate) fn add(&mut self, count: usize, value: impl Fn(usize, usize) -> f32) {
        if count == 0 || self.columns == 0 {
            return;
        }
        if self.shift.is_empty() {
            let first = |c| if self.centred { value(0, c) } else { 0.0 };
            self.shift = (0..self.columns).map(first).collect();
        }
        let block_len = self.panels * BLOCK * LANES;
        for row in 0..count {
            if self.filled == BLOCK {
                if self.waiting.len() + block_len > MAX_WAITING.max(block_len) {
                    self.multiply();
                }
                self.waiting.resize(self.waiting.len() + block_len, 0.0);
                self.filled = 0;
            }
            let start = self.waiting.len() - block_len + self.filled * LANES;
            let block = &mut self.waiting[start..];
            for c in 0..self.columns {
                let x = value(row, c) - self.shift[c];
                block[c / LANES * BLOCK * LANES + c % LANES] = x;
                self.sums[c] += f64::from(x);
            }
            self.filled += 1;
        }
        self.rows += count as u64;
    }

    /// Multiplies the blocks that wait; an unfinished one, filled up with zeros, only at the end.
    fn multiply(&mut self) {
        let panels = self.panels;
        let panel_len = BLOCK * LANES;
        let waiting = &self.waiting;
        self.tiles.par_iter_mut().enumerate().for_each(|(i, row)| {
            for block in waiting.chunks_exact(panels * panel_len) {
                let a = &block[i * panel_len..(i + 1) * panel_len];
                for (j, tile) in row.chunks_exact_mut(LANES * LANES).enumerate() {
                    let b = &block[(i + j) * panel_len..(i + j + 1) * panel_len];
                    for half in 0..2 {
                        let sums = product(a, b, half);
                        let tile = &mut tile[half * HALF * LANES..(half + 1) * HALF * LANES];
                        for (t, s) in tile.iter_mut().zip(sums.as_flattened()) {
                            *t += f64::from(*s);
                        }
                    }
                }
            }
        });
        self.waiting.clear();
        self.filled = BLOCK;
    }

    /// The moments of all rows so far.
    pub(crate) fn finish(mut self) -> Moments {
        self.multiply();
        let n = self.columns;
        let mut products = vec![0.0; n * n];
        for (i, row) in self.tiles.iter().enumerate() {
            for (at, value) in row.iter().enumerate() {
                let (tile, y, x) = (at / (LANES * LANES), at / LANES % LANES, at % LANES);
                let (r, c) = (i * LANES + y, (i + tile) * LANES + x);
                if r < n && c < n && r <= c {
                    products[r * n + c] = *value;
                    products[c * n + r] = *value;
                }
            }
        }
        Moments { columns: n, rows: self.rows, shift: self.shift, sums: self.sums, products }
    }
}

/// 4 columns of panel `a` (its lower or upper half) times the 8 of panel `b`.
#[inline(never)]
fn product(a: &[f32], b: &[f32], half: usize) -> [[f32; LANES]; HALF] {
    let mut sums = [[0.0_f32; LANES]; HALF];
    let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
    for (a, b) in a.iter().zip(b) {
        let a: [f32; HALF] = if half == 0 { [a[0], a[1], a[2], a[3]] } else { [a[4], a[5], a[6], a[7]] };
        for (sums, a) in sums.iter_mut().zip(a) {
            for (s, b) in sums.iter_mut().zip(b) {
                *s += a * b;
            }
        }
    }
    sums
}

/// Second moments of a stream of rows.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub(crate) columns: usize,
    pub(crate) rows: u64,
    shift: Vec<f32>,
    sums: Vec<f64>,
    /// `[columns][columns]`, about the shift.
    pub(crate) products: Vec<f64>,
}

impl Moments {
    /// Sums of products of deviations from the mean, `[columns][columns]`.
    pub(crate) fn scatter(&self) -> Vec<f64> {
        let (n, rows) = (self.columns, self.rows.max(1) as f64);
        let mut scatter = self.products.clone();
        for r in 0..n {
            for c in 0..n {
                scatter[r * n + c] -= self.sums[r] * self.sums[c] / rows;
            }
        }
        scatter
    }

    /// What the values of a column are measured from: constants are told by it.
    pub(crate) fn mean(&self, column: usize) -> f64 {
        f64::from(self.shift.get(column).copied().unwrap_or(0.0))
            + self.sums[column] / self.rows.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(row: usize, column: usize) -> f32 {
        ((row * 31 + column * 17) as f32 * 0.37).sin() + column as f32
    }

    #[test]
    fn products_are_those_of_a_plain_sum() {
        for (columns, rows) in [(1, 1), (3, 127), (8, 128), (9, 129), (21, 700)] {
            let mut gram = Gram::new(columns, false);
            gram.add(rows, value);
            let got = gram.finish();
            for i in 0..columns {
                for j in 0..columns {
                    let terms = (0..rows).map(|r| f64::from(value(r, i)) * f64::from(value(r, j)));
                    let (expected, got) = (terms.sum::<f64>(), got.products[i * columns + j]);
                    assert!(
                        (got - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                        "{columns} x {rows}: {i}, {j}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_split_into_calls_does_not_show_in_the_bits() {
        let whole = {
            let mut gram = Gram::new(11, true);
            gram.add(1000, value);
            gram.finish()
        };
        for split in [1, 7, 128, 333] {
            let mut gram = Gram::new(11, true);
            let mut start = 0;
            while start < 1000 {
                let count = split.min(1000 - start);
                gram.add(count, |r, c| value(start + r, c));
                start += count;
            }
            let got = gram.finish();
            assert_eq!((got.products, got.sums), (whole.products.clone(), whole.sums.clone()), "{split}");
        }
    }
}
