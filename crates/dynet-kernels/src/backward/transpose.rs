//! Transposition in registers: how weights get into panels and gradients out of them.

use crate::vector::{Job, MAX_LANES, Vector};

/// Values of a row that are asked for ahead of those that are turned: eight cache lines, of which the hardware foresees
/// none, since there are as many rows as lanes and each lies in a page of its own.
pub(super) const AHEAD: usize = 128;

/// The side of a transposition whose rows come from memory: it goes along them, and asks for them ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    /// What is read; so many values on lie those that are read next.
    Source(usize),
    /// What is written.
    Destination,
}

/// `dst[to(c) + r] = src[from(r) + c]` for `rows` x `cols` values.
pub(crate) struct Transpose<F, T> {
    pub(crate) src: *const f32,
    pub(crate) from: F,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) dst: *mut f32,
    pub(crate) to: T,
    pub(crate) far: Far,
}

impl<F: Fn(usize) -> usize, T: Fn(usize) -> usize> Job for Transpose<F, T> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { src, from, rows, cols, dst, to, far } = self;
        let (wide, ahead) = match far {
            Far::Source(ahead) => (true, ahead),
            Far::Destination => (false, AHEAD),
        };
        let (outer, inner) = if wide { (cols, rows) } else { (rows, cols) };
        for i in (0..outer).step_by(V::LANES) {
            for j in (0..inner).step_by(V::LANES) {
                let (r, c) = if wide { (j, i) } else { (i, j) };
                let (height, width) = ((rows - r).min(V::LANES), (cols - c).min(V::LANES));
                if wide {
                    (r..r + height).for_each(|r| v.prefetch(src.wrapping_add(from(r) + c + ahead).cast()));
                } else {
                    (c..c + width).for_each(|c| v.prefetch_to_write(dst.wrapping_add(to(c) + r + ahead)));
                }
                // SAFETY: whoever makes this job answers for all rows and columns of source and destination.
                unsafe {
                    if height == V::LANES && width == V::LANES {
                        let mut block = [v.splat(0.0); MAX_LANES];
                        for (i, row) in block.iter_mut().enumerate().take(V::LANES) {
                            *row = v.load(src.add(from(r + i) + c));
                        }
                        turn(v, &mut block);
                        for (j, column) in block.iter().enumerate().take(V::LANES) {
                            v.store(dst.add(to(c + j) + r), *column);
                        }
                        continue;
                    }
                    let mut block = [v.splat(0.0); MAX_LANES];
                    for (i, row) in block.iter_mut().enumerate().take(height) {
                        *row = v.load_some(src.add(from(r + i) + c), width);
                    }
                    turn(v, &mut block);
                    for (j, column) in block.iter().enumerate().take(width) {
                        v.store_some(dst.add(to(c + j) + r), *column, height);
                    }
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
            let sizes = [(1, 1), (16, 16), (3, 37), (33, 9), (20, 31), (33, 200)];
            for ((rows, cols), far) in
                sizes.into_iter().flat_map(|s| [(s, Far::Source(AHEAD)), (s, Far::Destination)])
            {
                let src: Vec<f32> = (0..rows * (cols + 2)).map(|i| i as f32).collect();
                let mut dst = vec![-1.0; cols * (rows + 1)];
                isa.run(Transpose {
                    src: src.as_ptr(),
                    from: |r| r * (cols + 2),
                    rows,
                    cols,
                    dst: dst.as_mut_ptr(),
                    to: |c| c * (rows + 1),
                    far,
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
