//! AVX-512: 32 registers of 16 lanes, masks for tails.

use std::arch::x86_64::*;

use crate::arch::avx512_half::Avx512Half;
use crate::arch::prefetch_to_write;
use crate::isa::has_avx512;
use crate::vector::{Job, Vector};

/// The proof that this CPU has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// `None` on a CPU without it.
    pub fn new() -> Option<Self> {
        has_avx512().then_some(Self(()))
    }
}

/// The first `n` of 16 lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1u16 << n) - 1 }
}

macro_rules! intrinsic {
    ($e:expr) => {
        // SAFETY: `self` exists only where `new` saw the instruction set; addresses are the caller's promise.
        unsafe { $e }
    };
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    // 14 x 2 accumulators + 2 weights + 1 broadcast = 31 of 32 registers.
    const MR: usize = 14;
    type Reg = __m512;
    type Index = __m512i;
    type Half = Avx512Half;
    const ROW: usize = 32;

    #[inline(always)]
    fn half(self) -> Avx512Half {
        Avx512Half(self)
    }

    #[inline(always)]
    fn call<J: Job>(self, job: J) -> J::Out {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inner<J: Job>(v: Avx512, job: J) -> J::Out {
            job.run(v)
        }
        intrinsic!(inner(self, job))
    }

    #[inline(always)]
    fn call_apart<J: Job>(self, job: J) -> J::Out {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inner<J: Job>(v: Avx512, job: J) -> J::Out {
            job.run(v)
        }
        intrinsic!(inner(self, job))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Reg {
        intrinsic!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::Reg {
        intrinsic!(_mm512_loadu_ps(p))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::Reg) {
        intrinsic!(_mm512_storeu_ps(p, x))
    }

    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, n: usize) -> Self::Reg {
        intrinsic!(_mm512_maskz_loadu_ps(mask(n), p))
    }

    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: Self::Reg, n: usize) {
        intrinsic!(_mm512_mask_storeu_ps(p, mask(n), x))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> [Self::Reg; 2] {
        let words = intrinsic!(_mm512_loadu_si512(p.cast()));
        let low = intrinsic!(_mm512_slli_epi32::<16>(words));
        let high = intrinsic!(_mm512_and_si512(words, _mm512_set1_epi32(!0xffff)));
        intrinsic!([_mm512_castsi512_ps(low), _mm512_castsi512_ps(high)])
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::Reg {
        intrinsic!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))))
    }

    #[inline(always)]
    fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn fma(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        intrinsic!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn pow2(self, n: Self::Reg) -> Self::Reg {
        intrinsic!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn index(self, at: impl Fn(usize) -> usize) -> Self::Index {
        let at: [i32; 16] = std::array::from_fn(|l| at(l) as i32);
        intrinsic!(_mm512_loadu_si512(at.as_ptr().cast()))
    }

    #[inline(always)]
    fn permute(self, lo: Self::Reg, hi: Self::Reg, index: Self::Index) -> Self::Reg {
        intrinsic!(_mm512_permutex2var_ps(lo, index, hi))
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }

    #[inline(always)]
    fn prefetch_to_write(self, p: *const f32) {
        prefetch_to_write(p);
    }
}
