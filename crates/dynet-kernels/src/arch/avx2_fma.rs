//! AVX2 and FMA: 16 registers of 8 lanes.

use std::arch::x86_64::*;

use crate::arch::prefetch_to_write;
use crate::isa::has_avx2_fma;
use crate::vector::{Job, Vector};

/// The proof that this CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2Fma(());

impl Avx2Fma {
    /// `None` on a CPU without it.
    pub fn new() -> Option<Self> {
        has_avx2_fma().then_some(Self(()))
    }
}

/// Eight ones, then eight zeros: a mask of `n` lanes starts at `8 - n`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

macro_rules! intrinsic {
    ($e:expr) => {
        // SAFETY: `self` exists only where `new` saw the instruction set; addresses are the caller's promise.
        unsafe { $e }
    };
}
pub(super) use intrinsic;

/// The operations that AVX2 has as AVX-512 VL has them.
macro_rules! eight_lanes {
    () => {
        #[inline(always)]
        fn splat(self, x: f32) -> Self::Reg {
            intrinsic!(_mm256_set1_ps(x))
        }

        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> Self::Reg {
            intrinsic!(_mm256_loadu_ps(p))
        }

        #[inline(always)]
        unsafe fn store(self, p: *mut f32, x: Self::Reg) {
            intrinsic!(_mm256_storeu_ps(p, x))
        }

        #[inline(always)]
        unsafe fn load_bf16(self, p: *const u16) -> [Self::Reg; 2] {
            let words = intrinsic!(_mm256_loadu_si256(p.cast()));
            let low = intrinsic!(_mm256_slli_epi32::<16>(words));
            let high = intrinsic!(_mm256_and_si256(words, _mm256_set1_epi32(!0xffff)));
            intrinsic!([_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)])
        }

        #[inline(always)]
        unsafe fn load_i8(self, p: *const i8) -> Self::Reg {
            intrinsic!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))))
        }

        #[inline(always)]
        fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_add_ps(a, b))
        }

        #[inline(always)]
        fn mul(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_mul_ps(a, b))
        }

        #[inline(always)]
        fn div(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_div_ps(a, b))
        }

        #[inline(always)]
        fn sqrt(self, a: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_sqrt_ps(a))
        }

        #[inline(always)]
        fn fma(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_fmadd_ps(a, b, c))
        }

        #[inline(always)]
        fn min(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_min_ps(a, b))
        }

        #[inline(always)]
        fn max(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
            intrinsic!(_mm256_max_ps(a, b))
        }

        #[inline(always)]
        fn pow2(self, n: Self::Reg) -> Self::Reg {
            intrinsic!({
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            })
        }

        #[inline(always)]
        fn prefetch(self, p: *const u8) {
            intrinsic!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
        }

        #[inline(always)]
        fn prefetch_to_write(self, p: *const f32) {
            prefetch_to_write(p);
        }
    };
}
pub(super) use eight_lanes;

impl Avx2Fma {
    /// The first `n` of 8 lanes.
    #[inline(always)]
    fn mask(self, n: usize) -> __m256i {
        let from = 8 - n.min(8);
        // SAFETY: `from + 8 <= 16`, the length of the table; `self` proves the instruction set.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(from).cast()) }
    }
}

impl Vector for Avx2Fma {
    const LANES: usize = 8;
    // 6 x 2 accumulators + 2 weights + 1 broadcast = 15 of 16 registers.
    const MR: usize = 6;
    const FREE_MASKS: bool = false;
    type Reg = __m256;
    type Index = [__m256i; 2];
    type Half = Self;
    const ROW: usize = 16;

    #[inline(always)]
    fn half(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<J: Job>(self, job: J) -> J::Out {
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn inner<J: Job>(v: Avx2Fma, job: J) -> J::Out {
            job.run(v)
        }
        intrinsic!(inner(self, job))
    }

    #[inline(always)]
    fn call_apart<J: Job>(self, job: J) -> J::Out {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn inner<J: Job>(v: Avx2Fma, job: J) -> J::Out {
            job.run(v)
        }
        intrinsic!(inner(self, job))
    }

    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, n: usize) -> Self::Reg {
        intrinsic!(_mm256_maskload_ps(p, self.mask(n)))
    }

    /// Masked stores are slow on Zen 1 to 3, as LLVM has it too (llvm-project pull request 214187): four lanes, two, and
    /// one.
    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: Self::Reg, n: usize) {
        if n >= 8 {
            return intrinsic!(_mm256_storeu_ps(p, x));
        }
        intrinsic!({
            let (mut p, mut rest) = (p, _mm256_castps256_ps128(x));
            if n & 4 != 0 {
                _mm_storeu_ps(p, rest);
                (p, rest) = (p.add(4), _mm256_extractf128_ps::<1>(x));
            }
            if n & 2 != 0 {
                _mm_storel_epi64(p.cast(), _mm_castps_si128(rest));
                (p, rest) = (p.add(2), _mm_movehl_ps(rest, rest));
            }
            if n & 1 != 0 {
                _mm_store_ss(p, rest);
            }
        })
    }

    #[inline(always)]
    fn index(self, at: impl Fn(usize) -> usize) -> Self::Index {
        // `vpermps` looks at the low three bits only; the second word tells which half is meant.
        let lane: [i32; 8] = std::array::from_fn(|l| at(l) as i32);
        let high: [i32; 8] = std::array::from_fn(|l| if at(l) < 8 { 0 } else { -1 });
        intrinsic!([_mm256_loadu_si256(lane.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())])
    }

    #[inline(always)]
    fn permute(self, lo: Self::Reg, hi: Self::Reg, [lane, high]: Self::Index) -> Self::Reg {
        intrinsic!({
            let lo = _mm256_permutevar8x32_ps(lo, lane);
            let hi = _mm256_permutevar8x32_ps(hi, lane);
            _mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(high))
        })
    }

    eight_lanes!();
}
