//! Transposition in registers: how weights get into panels and gradients out of them.

use crate::vector::{Job, Vector};

/// Lanes of the widest register.
const MAX_LANES: usize = 16;

/// `dst[to(c) + r] = src[from(r) + c]` for `rows` x `cols` values.
pub(crate) struct Transpose<F, T> {
    pub(crate) src: *const f32,
    pub(crate) from: F,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) dst: *mut f32,
    pub(crate) to: T,
}

impl<F: Fn(usize) -> usize, T: Fn(usize) -> usize> Job for Transpose<F, T> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { src, from, rows, cols, dst, to } = self;
        for r in (0..rows).step_by(V::LANES) {
            let height = (rows - r).min(V::LANES);
            for c in (0..cols).step_by(V::LANES) {
                let width = (cols - c).min(V::LANES);
                let mut block = [v.splat(0.0); MAX_LANES];
                if height == V::LANES && width == V::LANES {
                    // SAFETY: as below.
                    unsafe {
                        for (i, row) in block.iter_mut().enumerate().take(V::LANES) {
                            *row = v.load(src.add(from(r + i) + c));
                        }
                        turn(v, &mut block);
                        for (j, column) in block.iter().enumerate().take(V::LANES) {
                            v.store(dst.add(to(c + j) + r), *column);
                        }
                    }
                    continue;
                }
                for (i, row) in block.iter_mut().enumerate().take(height) {
                    // SAFETY: whoever makes this job answers for all rows and columns of source and destination.
                    *row = unsafe { v.load_some(src.add(from(r + i) + c), width) };
                }
                turn(v, &mut block);
                for (j, column) in block.iter().enumerate().take(width) {
                    // SAFETY: as above.
                    unsafe { v.store_some(dst.add(to(c + j) + r), *column, height) };
                }
            }
        }
    }
}

/// Transposes `LANES` registers: in step `s` pairs of registers `s` apart exchange the lanes that lie `s` apart.
#[inline(always)]
fn turn<V: Vector>(v: V, block: &mut [V::Reg; MAX_LANES]) {
    macro_rules! steps {
        ($($s:literal)*) => {
            $(
                if $s < V::LANES {
                    let low = v.index(|l| if l & $s == 0 { l } else { V::LANES + l - $s });
                    let high = v.index(|l| if l & $s == 0 { l + $s } else { V::LANES + l });
                    for a in 0..MAX_LANES {
                        if a & $s == 0 && a < V::LANES {
                            let (x, y) = (block[a], block[a + $s]);
                            block[a] = v.permute(x, y, low);
                            block[a + $s] = v.permute(x, y, high);
                        }
                    }
                }
            )*
        };
    }
    steps!(1 2 4 8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn every_value_lands_at_its_place() {
        for isa in Isa::available() {
            for (rows, cols) in [(1, 1), (16, 16), (3, 37), (33, 9), (20, 31)] {
                let src: Vec<f32> = (0..rows * (cols + 2)).map(|i| i as f32).collect();
                let mut dst = vec![-1.0; cols * (rows + 1)];
                isa.run(Transpose {
                    src: src.as_ptr(),
                    from: |r| r * (cols + 2),
                    rows,
                    cols,
                    dst: dst.as_mut_ptr(),
                    to: |c| c * (rows + 1),
                });
                for (c, line) in dst.chunks(rows + 1).enumerate() {
                    for (r, x) in line[..rows].iter().enumerate() {
                        assert_eq!(*x, src[r * (cols + 2) + c], "{isa} {rows} x {cols}: {r}, {c}");
                    }
                    assert_eq!(line[rows], -1.0, "{isa} {rows} x {cols}: written behind column {c}");
                }
            }
        }
    }
}
