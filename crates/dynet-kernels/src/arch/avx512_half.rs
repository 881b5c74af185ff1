//! AVX-512 VL: 32 registers of 8 lanes. A core multiplies two of them in the time of one of 16 lanes.

use std::arch::x86_64::*;

use crate::arch::avx2_fma::{eight_lanes, intrinsic};
use crate::arch::avx512::Avx512;
use crate::arch::prefetch_to_write;
use crate::vector::{Job, Vector};

/// Half of the registers of [`Avx512`], which makes it.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Half(pub(super) ());

/// The first `n` of 8 lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask8 {
    if n >= 8 { !0 } else { (1u8 << n) - 1 }
}

impl Vector for Avx512Half {
    const LANES: usize = 8;
    // 14 accumulators of one column of registers: more rows would lack addresses, not registers.
    const MR: usize = 14;
    type Reg = __m256;
    type Index = __m256i;
    type Half = Self;
    const ROW: usize = Avx512::ROW;

    #[inline(always)]
    fn half(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<J: Job>(self, job: J) -> J::Out {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inner<J: Job>(v: Avx512Half, job: J) -> J::Out {
            job.run(v)
        }
        intrinsic!(inner(self, job))
    }

    #[inline(always)]
    fn call_apart<J: Job>(self, job: J) -> J::Out {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inner<J: Job>(v: Avx512Half, job: J) -> J::Out {
            job.run(v)
        }
        intrinsic!(inner(self, job))
    }

    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, n: usize) -> Self::Reg {
        intrinsic!(_mm256_maskz_loadu_ps(mask(n), p))
    }

    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: Self::Reg, n: usize) {
        intrinsic!(_mm256_mask_storeu_ps(p, mask(n), x))
    }

    #[inline(always)]
    fn index(self, at: impl Fn(usize) -> usize) -> Self::Index {
        let at: [i32; 8] = std::array::from_fn(|l| at(l) as i32);
        intrinsic!(_mm256_loadu_si256(at.as_ptr().cast()))
    }

    #[inline(always)]
    fn permute(self, lo: Self::Reg, hi: Self::Reg, index: Self::Index) -> Self::Reg {
        intrinsic!(_mm256_permutex2var_ps(lo, index, hi))
    }

    eight_lanes!();
}
