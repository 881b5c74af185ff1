//! Plain Rust on arrays of four, which is a register of every 64-bit CPU.

use crate::vector::{Job, Vector};

/// Always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

const LANES: usize = 4;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|l| f(a[l], b[l]))
}

impl Vector for Portable {
    const LANES: usize = LANES;
    // 4 x 2 accumulators + 2 weights + 1 broadcast of the 16 registers of SSE2; a product needs one more.
    const MR: usize = 4;
    type Reg = [f32; LANES];
    type Index = [usize; LANES];
    type Half = Self;
    const ROW: usize = 2 * LANES;

    #[inline(always)]
    fn half(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<J: Job>(self, job: J) -> J::Out {
        job.run(self)
    }

    #[inline(always)]
    fn call_apart<J: Job>(self, job: J) -> J::Out {
        #[inline(never)]
        fn inner<J: Job>(job: J) -> J::Out {
            job.run(Portable)
        }
        inner(job)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Reg {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::Reg {
        // SAFETY: the caller's promise; an array of f32 has the alignment of f32.
        unsafe { *p.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::Reg) {
        // SAFETY: as `load`.
        unsafe { *p.cast() = x }
    }

    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, n: usize) -> Self::Reg {
        let mut x = [0.0; LANES];
        for (l, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: `l < min(n, LANES)`, which the caller promises to be readable.
            *x = unsafe { *p.add(l) };
        }
        x
    }

    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: Self::Reg, n: usize) {
        for (l, x) in x.iter().enumerate().take(n) {
            // SAFETY: `l < min(n, LANES)`, which the caller promises to be writable.
            unsafe { *p.add(l) = *x }
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> [Self::Reg; 2] {
        // SAFETY: `2 * l + h < 2 * LANES`, which the caller promises to be readable.
        let at = |l: usize, h: usize| f32::from_bits(u32::from(unsafe { *p.add(2 * l + h) }) << 16);
        [std::array::from_fn(|l| at(l, 0)), std::array::from_fn(|l| at(l, 1))]
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::Reg {
        // SAFETY: `l < LANES`, which the caller promises to be readable.
        std::array::from_fn(|l| f32::from(unsafe { *p.add(l) }))
    }

    #[inline(always)]
    fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn sqrt(self, a: Self::Reg) -> Self::Reg {
        a.map(f32::sqrt)
    }

    // Rounds twice: without the instruction `f32::mul_add` is a call into the C library.
    #[inline(always)]
    fn fma(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg {
        std::array::from_fn(|l| a[l] * b[l] + c[l])
    }

    #[inline(always)]
    fn min(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn pow2(self, n: Self::Reg) -> Self::Reg {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn index(self, at: impl Fn(usize) -> usize) -> Self::Index {
        std::array::from_fn(at)
    }

    #[inline(always)]
    fn permute(self, lo: Self::Reg, hi: Self::Reg, index: Self::Index) -> Self::Reg {
        index.map(|i| if i < LANES { lo[i % LANES] } else { hi[i % LANES] })
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn prefetch_to_write(self, _: *const f32) {}
}
