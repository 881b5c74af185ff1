//! Values of several rows in turn, as images become channels last and as ShuffleNet shuffles.

use crate::vector::Vector;

/// `out[i * N + row] = rows[row][i]` for `N` rows.
pub(crate) struct Interleave<V: Vector, const N: usize> {
    /// For each register of the output and each row but the first, which lanes that row gives to what the rows before it gave.
    index: [[V::Index; N]; N],
}

impl<V: Vector, const N: usize> Interleave<V, N> {
    #[inline(always)]
    pub(crate) fn new(v: V) -> Self {
        // Loops in place of `from_fn`: see `FusePanel::coefficients`.
        let mut index = [[v.index(|l| l); N]; N];
        for (j, index) in index.iter_mut().enumerate() {
            for (row, index) in index.iter_mut().enumerate() {
                *index = v.index(|l| {
                    let at = j * V::LANES + l;
                    match at % N {
                        // The first row has no register before it.
                        0 if row == 1 => at / N,
                        this if this == row => V::LANES + at / N,
                        _ => l,
                    }
                });
            }
        }
        Self { index }
    }

    /// # Panics
    /// If the rows are shorter than an `N`th of `out`.
    #[inline(always)]
    pub(crate) fn run(&self, v: V, rows: [&[f32]; N], out: &mut [f32]) {
        let len = out.len() / N;
        let mut from = [std::ptr::null(); N];
        for (from, row) in from.iter_mut().zip(rows) {
            *from = row[..len].as_ptr();
        }
        let whole = len - len % V::LANES;
        for i in (0..whole).step_by(V::LANES) {
            for j in 0..N {
                let mut x = v.splat(0.0);
                for (row, from) in from.iter().enumerate() {
                    // SAFETY: a register of each row is left.
                    let this = unsafe { v.load(from.wrapping_add(i)) };
                    x = if row == 0 { this } else { v.permute(x, this, self.index[j][row]) };
                }
                // SAFETY: `N` registers of the output are left.
                unsafe { v.store(out.as_mut_ptr().add(i * N + j * V::LANES), x) };
            }
        }
        let rest = len - whole;
        for j in 0..N {
            let lanes = (rest * N).saturating_sub(j * V::LANES);
            if lanes == 0 {
                break;
            }
            let mut x = v.splat(0.0);
            for (row, from) in from.iter().enumerate() {
                // SAFETY: `rest` values of each row are left.
                let this = unsafe { v.load_some(from.wrapping_add(whole), rest) };
                x = if row == 0 { this } else { v.permute(x, this, self.index[j][row]) };
            }
            // SAFETY: `lanes` values of the output are left from here on.
            unsafe { v.store_some(out.as_mut_ptr().add(whole * N + j * V::LANES), x, lanes) };
        }
    }
}
