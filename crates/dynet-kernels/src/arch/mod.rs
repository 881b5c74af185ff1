//! One thin file for each instruction set.

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2_fma;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_half;
mod portable;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use absent::{Amx, Amx as Tiles};
#[cfg(not(target_arch = "x86_64"))]
pub use absent::{Avx2Fma, Avx512};
#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{Amx, Tiles};
#[cfg(target_arch = "x86_64")]
pub use avx2_fma::Avx2Fma;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub(crate) use portable::Portable;

/// Asks for a cache line to be written to. Without it a store that misses waits for its line, and all stores behind it:
/// they leave in order.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_to_write(p: *const f32) {
    #[cfg(not(miri))]
    // SAFETY: a hint that faults at no address; CPUs without it take it for no operation.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
    let _ = p;
}
