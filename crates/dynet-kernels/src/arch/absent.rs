//! The x86-64 instruction sets on other CPUs: types without a value.

use crate::arch::Portable;
use crate::generic::bf16::Rows;
use crate::vector::{Job, Vector};

macro_rules! absent {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {}

        impl $name {
            /// Always `None` here.
            pub fn new() -> Option<Self> {
                None
            }

            pub(crate) const LANES: usize = Portable::LANES;
            pub(crate) const MR: usize = Portable::MR;
            pub(crate) const FUSES: bool = Portable::FUSES;

            pub(crate) fn call<J: Job>(self, _: J) -> J::Out {
                match self {}
            }
        }
    };
}

absent!(Avx2Fma, "AVX2 and FMA, which this CPU family does not have.");
absent!(Avx512, "AVX-512, which this CPU family does not have.");

impl Avx512 {
    /// Nothing, of which there is no other kind.
    pub(crate) fn of_other_cores(self) -> Option<Self> {
        match self {}
    }
}

/// AMX, which this CPU family does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amx {}

impl Amx {
    /// Always `None` here.
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn tiles(self) -> Self {
        self
    }

    pub(crate) unsafe fn multiply(
        &self,
        _: (Rows, bool),
        _: (*const u16, bool),
        _: usize,
        _: (*mut f32, bool),
        _: (*const u8, usize),
    ) {
        match *self {}
    }
}
