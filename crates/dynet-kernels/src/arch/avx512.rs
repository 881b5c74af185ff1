//! AVX-512: 32 registers of 16 lanes, masks for tails.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::arch::avx512_half::Avx512Half;
use crate::arch::prefetch_to_write;
use crate::isa::{has_avx512, has_avx512_bf16, has_two_wide_multipliers};
use crate::vector::{Job, Vector};

/// The proof that this CPU has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512 {
    /// Whether it rounds to bfloat16 by itself.
    bf16: bool,
    /// Whether a core multiplies two registers a cycle.
    two_multipliers: bool,
}

impl Avx512 {
    /// `None` on a CPU without it.
    pub fn new() -> Option<Self> {
        let this = || Self { bf16: has_avx512_bf16(), two_multipliers: has_two_wide_multipliers() };
        has_avx512().then(this)
    }

    /// What a CPU takes whose cores have the other number of multipliers.
    pub(crate) fn of_other_cores(self) -> Option<Self> {
        Some(Self { two_multipliers: !self.two_multipliers, ..self })
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

/// Two registers as bfloat16, `lo` in the low half; for CPUs that have the instruction.
#[inline]
#[target_feature(enable = "avx512f")]
fn native_bf16(lo: __m512, hi: __m512) -> __m512i {
    let words;
    // Written out: its intrinsic would be a call from functions that are compiled for CPUs without it, too.
    // SAFETY: an operation on registers alone.
    unsafe {
        asm!(
            "vcvtne2ps2bf16 {words}, {hi}, {lo}",
            words = lateout(zmm_reg) words,
            hi = in(zmm_reg) hi,
            lo = in(zmm_reg) lo,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    words
}

/// The same, rounded by integers; values that are not numbers stay so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rounded_bf16(lo: __m512, hi: __m512) -> __m512i {
    let half = |x: __m512| {
        let bits = _mm512_castps_si512(x);
        let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(up, nan, quiet)))
    };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(lo)), half(hi))
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    // 14 x 2 accumulators + 2 weights + 1 broadcast = 31 of 32 registers.
    const MR: usize = 14;
    const FUSES: bool = true;
    type Reg = __m512;
    type Index = __m512i;
    type Half = Avx512Half;
    const ROW: usize = 32;

    #[inline(always)]
    fn half(self) -> Avx512Half {
        Avx512Half(())
    }

    #[inline(always)]
    fn multiplies_whole(self) -> bool {
        self.two_multipliers
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
    unsafe fn store_bf16(self, p: *mut u16, lo: Self::Reg, hi: Self::Reg) {
        let words = intrinsic!(if self.bf16 { native_bf16(lo, hi) } else { rounded_bf16(lo, hi) });
        intrinsic!(_mm512_storeu_si512(p.cast(), words))
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(self, p: *mut u16, even: Self::Reg, odd: Self::Reg) {
        let word = |i: usize| i / 2 + 16 * (i % 2);
        let words = intrinsic!({
            let at: [u16; 32] = std::array::from_fn(|i| word(i) as u16);
            let apart = if self.bf16 { native_bf16(even, odd) } else { rounded_bf16(even, odd) };
            _mm512_permutexvar_epi16(_mm512_loadu_si512(at.as_ptr().cast()), apart)
        });
        intrinsic!(_mm512_storeu_si512(p.cast(), words))
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
    fn prefetch_near(self, p: *const u8) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }

    #[inline(always)]
    fn prefetch_to_write(self, p: *const f32) {
        prefetch_to_write(p);
    }
}
