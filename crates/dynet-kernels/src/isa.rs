//! Which instruction sets this CPU has: the one place where that is found out.

use std::fmt;
use std::str::FromStr;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

use crate::arch::{Amx, Portable};
pub use crate::arch::{Avx2Fma, Avx512};
use crate::vector::{Job, Vector};

/// Whether this CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether this CPU has AVX-512 F, BW, DQ and VL, and what AVX2 has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    has_avx2_fma()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Whether this CPU rounds whole AVX-512 registers to bfloat16.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// Whether a core of this CPU multiplies two AVX-512 registers a cycle, as Intel's servers do since they have bfloat16. Of others it is
/// not known here: Zen 4 multiplies one, or two of half the width.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_two_wide_multipliers() -> bool {
    use std::arch::x86_64::__cpuid;
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let by_intel = || {
            let id = __cpuid(0);
            [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
        };
        cfg!(not(miri)) && has_avx512_bf16() && by_intel()
    });
    *HAS
}

/// Whether this CPU has AMX with bfloat16, and AVX-512 with it, and Linux lets this process use it: it is asked once.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_amx_bf16() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let wide = has_avx512() && has_avx512_bf16();
        wide && cfg!(not(miri)) && cpu_has_amx_bf16() && may_use_tiles()
    });
    *HAS
}

/// Whether the CPU has it and the system saves its tiles: the standard library's macro does not know AMX in stable Rust.
#[cfg(target_arch = "x86_64")]
fn cpu_has_amx_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const AMX: u32 = 1 << 22 | 1 << 24;
    const TILES: u64 = 3 << 17;
    // SAFETY: a CPU with AVX-512 has `cpuid` and `xsave`, which its detection asked.
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: register 0 exists where there is `xgetbv`.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: as above.
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & AMX == AMX && unsafe { saved() } & TILES == TILES
}

/// Asks Linux for the state of tiles, which a process has to do before its first (`Documentation/arch/x86/xstate.rst`).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that changes nothing but what this process may do; it leaves all but these registers.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// No other system is known to save tiles without being asked in a way of its own.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}

/// An instruction set that this CPU has: holding a value is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, which the compiler vectorises for the target it was built for.
    Portable,
    /// x86-64 with AVX2 and FMA: 16 registers of 8 lanes.
    Avx2Fma(Avx2Fma),
    /// x86-64 with AVX-512 F, BW, DQ, VL: 32 registers of 16 lanes.
    Avx512(Avx512),
}

/// A name that is no instruction set, or one that this CPU lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa {
    name: String,
}

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction set `{}`: this CPU has ", self.name)?;
        for (i, isa) in Isa::available().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, isa.name())?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownIsa {}

impl Isa {
    /// The fastest instruction set of this CPU.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// All instruction sets of this CPU, fastest first; the portable one is always there.
    pub fn available() -> impl Iterator<Item = Self> {
        let wide = Avx512::new().map(Self::Avx512);
        let half = Avx2Fma::new().map(Self::Avx2Fma);
        [wide, half, Some(Self::Portable)].into_iter().flatten()
    }

    /// This instruction set as this CPU runs it and as other ones do, which choose other kernels; the results are the same bits. For
    /// tests of both.
    #[doc(hidden)]
    pub fn tunings(self) -> impl Iterator<Item = Self> {
        let other = match self {
            Self::Avx512(v) => v.of_other_cores().map(Self::Avx512),
            _ => None,
        };
        std::iter::once(self).chain(other)
    }

    /// `avx512`, `avx2_fma` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2Fma(_) => "avx2_fma",
            Self::Avx512(_) => "avx512",
        }
    }

    /// Lanes of a register.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable => Portable::LANES,
            Self::Avx2Fma(_) => Avx2Fma::LANES,
            Self::Avx512(_) => Avx512::LANES,
        }
    }

    /// Output channels of a panel of packed weights: two registers.
    pub fn nr(self) -> usize {
        2 * self.lanes()
    }

    /// Pixels of the tile of a matrix product that fills the registers.
    pub(crate) fn mr(self) -> usize {
        match self {
            Self::Portable => Portable::MR,
            Self::Avx2Fma(_) => Avx2Fma::MR,
            Self::Avx512(_) => Avx512::MR,
        }
    }

    /// Whether products fuse rows of other weights on the way.
    pub(crate) fn fuses(self) -> bool {
        match self {
            Self::Portable => Portable::FUSES,
            Self::Avx2Fma(_) => Avx2Fma::FUSES,
            Self::Avx512(_) => Avx512::FUSES,
        }
    }

    /// Whether products of bfloat16 run on a matrix unit of the CPU, AMX, several times as fast as those of f32.
    pub fn has_bf16_tiles(self) -> bool {
        self.amx().is_some()
    }

    /// Tiles that multiply bfloat16, if the CPU has them beside this instruction set.
    pub(crate) fn amx(self) -> Option<Amx> {
        match self {
            Self::Avx512(_) => Amx::new(),
            _ => None,
        }
    }

    /// Runs a job compiled for this instruction set.
    pub(crate) fn run<J: Job>(self, job: J) -> J::Out {
        match self {
            Self::Portable => Portable.call(job),
            Self::Avx2Fma(v) => v.call(job),
            Self::Avx512(v) => v.call(job),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::available().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa { name: name.to_owned() })
    }
}
