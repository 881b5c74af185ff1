//! Which instruction sets this CPU has: the one place where that is found out.

use std::fmt;
use std::str::FromStr;

use crate::arch::Portable;
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
