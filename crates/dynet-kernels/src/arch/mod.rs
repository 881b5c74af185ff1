//! One thin file for each instruction set.

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(target_arch = "x86_64")]
mod avx2_fma;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(not(target_arch = "x86_64"))]
pub use absent::{Avx2Fma, Avx512};
#[cfg(target_arch = "x86_64")]
pub use avx2_fma::Avx2Fma;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub(crate) use portable::Portable;
