//! AMX: eight tiles of 16 rows of 64 bytes, and a product of two of them whose factors are bfloat16. Its intrinsics are not
//! stable in Rust, so it is written in assembly.

use std::arch::asm;

use crate::generic::bf16::Rows;
use crate::isa::has_amx_bf16;

/// The proof that this CPU has AMX with bfloat16 and that the system lets this process use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amx(());

/// How the eight tiles are cut, as `ldtilecfg` reads it: 16 rows of 64 bytes each.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < 8 {
        row_bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// The tiles of a thread while it holds this: their shape is state of the thread that a system saves with each switch.
pub(crate) struct Tiles(Amx);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `Amx` proves the instruction; nobody else has tiles on this thread.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

impl Amx {
    /// `None` on a CPU or a system without it.
    pub(crate) fn new() -> Option<Self> {
        has_amx_bf16().then_some(Self(()))
    }

    /// Shapes the tiles of this thread.
    pub(crate) fn tiles(self) -> Tiles {
        // SAFETY: `self` proves the instruction, `CONFIG` is 64 bytes that describe tiles of palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly, preserves_flags))
        };
        Tiles(self)
    }
}

/// A loop over steps of 32 terms: sums in tiles 0 to 3, as far as they are wanted, of rows at `at` (tile 4) and `rest` (5) times
/// columns at `b` (6) and `b + 64` (7).
macro_rules! steps {
    (
        ($a:expr, $b:expr, $steps:expr, $out:expr, $resume:expr, $ahead:expr),
        [$($zero:literal)*], [$($load:literal)*], [$($work:literal)*], [$($store:literal)*]
    ) => {
        asm!(
            "test {at}, {at}",
            "jnz 2f",
            $($zero,)*
            "jmp 3f",
            "2:",
            $($load,)*
            "3:",
            "mov {at}, [{offsets}]",
            "add {at}, {a}",
            "lea {rest}, [{at} + {half}]",
            $($work,)*
            "prefetcht1 [{ahead}]",
            "prefetcht1 [{ahead} + 64]",
            "prefetcht1 [{ahead} + 128]",
            "prefetcht1 [{ahead} + 192]",
            "add {ahead}, {pace}",
            "add {offsets}, 8",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 3b",
            $($store,)*
            a = in(reg) $a.base,
            half = in(reg) $a.half,
            row = in(reg) $a.row,
            offsets = inout(reg) $a.offsets => _,
            at = inout(reg) usize::from($resume) => _,
            rest = out(reg) _,
            b = inout(reg) $b => _,
            steps = inout(reg) $steps => _,
            ahead = inout(reg) $ahead.0 => _,
            pace = in(reg) $ahead.1,
            out = in(reg) $out,
            panel = in(reg) 128_usize,
            options(nostack),
        )
    };
}

impl Tiles {
    /// `out[row][32] = sum_k a[row][k] * b[k][32]` for 16 rows, or for 32 if they are `tall`, added to what is there if
    /// `resume`; without `wide` for the first 16 columns. Each step of the loop asks for 256 bytes at `ahead.0`, which moves on
    /// by `ahead.1`.
    ///
    /// The panel lies `[steps][16][32][2]`, the sums `[rows][32]`.
    ///
    /// # Safety
    /// All of them must exist, with `steps` above 0.
    #[inline]
    pub(crate) unsafe fn multiply(
        &self,
        (a, tall): (Rows, bool),
        (b, wide): (*const u16, bool),
        steps: usize,
        (out, resume): (*mut f32, bool),
        ahead: (*const u8, usize),
    ) {
        // SAFETY: the caller's promise for what is read and written; the tiles have been shaped, and no other code uses them.
        unsafe {
            match (tall, wide) {
                (true, true) => steps!(
                    (a, b, steps, out, resume, ahead),
                    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
                    [
                        "tileloadd tmm0, [{out} + {panel}]" "tileloadd tmm1, [{out} + {panel} + 64]"
                        "tileloadd tmm2, [{out} + {panel} + 2048]" "tileloadd tmm3, [{out} + {panel} + 2112]"
                    ],
                    [
                        "tileloadd tmm6, [{b} + {panel}]" "tileloadd tmm4, [{at} + {row}]"
                        "tileloadd tmm7, [{b} + {panel} + 64]" "tileloadd tmm5, [{rest} + {row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7"
                        "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7"
                    ],
                    [
                        "tilestored [{out} + {panel}], tmm0" "tilestored [{out} + {panel} + 64], tmm1"
                        "tilestored [{out} + {panel} + 2048], tmm2" "tilestored [{out} + {panel} + 2112], tmm3"
                    ]
                ),
                (false, true) => steps!(
                    (a, b, steps, out, resume, ahead),
                    ["tilezero tmm0" "tilezero tmm1"],
                    ["tileloadd tmm0, [{out} + {panel}]" "tileloadd tmm1, [{out} + {panel} + 64]"],
                    [
                        "tileloadd tmm6, [{b} + {panel}]" "tileloadd tmm4, [{at} + {row}]"
                        "tileloadd tmm7, [{b} + {panel} + 64]"
                        "tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7"
                    ],
                    ["tilestored [{out} + {panel}], tmm0" "tilestored [{out} + {panel} + 64], tmm1"]
                ),
                (true, false) => steps!(
                    (a, b, steps, out, resume, ahead),
                    ["tilezero tmm0" "tilezero tmm2"],
                    ["tileloadd tmm0, [{out} + {panel}]" "tileloadd tmm2, [{out} + {panel} + 2048]"],
                    [
                        "tileloadd tmm6, [{b} + {panel}]" "tileloadd tmm4, [{at} + {row}]"
                        "tileloadd tmm5, [{rest} + {row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm2, tmm5, tmm6"
                    ],
                    ["tilestored [{out} + {panel}], tmm0" "tilestored [{out} + {panel} + 2048], tmm2"]
                ),
                (false, false) => steps!(
                    (a, b, steps, out, resume, ahead),
                    ["tilezero tmm0"],
                    ["tileloadd tmm0, [{out} + {panel}]"],
                    [
                        "tileloadd tmm6, [{b} + {panel}]" "tileloadd tmm4, [{at} + {row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6"
                    ],
                    ["tilestored [{out} + {panel}], tmm0"]
                ),
            }
        }
    }
}
