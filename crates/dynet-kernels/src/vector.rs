//! What the algorithms need of a vector register, and nothing more.

use crate::panels::round_bf16;

/// Lanes of the widest register.
pub(crate) const MAX_LANES: usize = 16;

/// The operations of one instruction set. A value is the proof that the CPU has it.
///
/// The methods inline into functions compiled for that instruction set, which [`Vector::call`] enters.
pub(crate) trait Vector: Copy + Send + Sync + 'static {
    /// Values in a register.
    const LANES: usize;
    /// Rows of the largest tile of the matrix product: `MR` x 2 accumulators + 2 weights + 1 broadcast.
    const MR: usize;
    /// Whether some lanes are loaded and stored in the time of all: else loops are compiled for whole registers, too.
    const FREE_MASKS: bool = true;
    /// Whether the largest tile leaves registers to fuse a row in.
    const FUSES: bool = false;
    /// A register of `LANES` values.
    type Reg: Copy;
    /// Positions of lanes for [`Vector::permute`].
    type Index: Copy;
    /// Half as wide registers of the same instruction set, for a few columns that would leave most of a register
    /// empty; itself where a register has eight lanes or less.
    type Half: Vector;
    /// Values of a row of packed weights: two whole registers.
    const ROW: usize;

    /// The proof for half as wide registers.
    fn half(self) -> Self::Half;
    /// Whether a core multiplies as many of these registers in a cycle as of half as wide ones, which then save no time.
    #[inline(always)]
    fn multiplies_whole(self) -> bool {
        false
    }

    /// Runs a job in a function compiled for this instruction set.
    fn call<J: Job>(self, job: J) -> J::Out;
    /// The same, kept out of the caller: a hot loop is compiled alone, with all registers to itself.
    fn call_apart<J: Job>(self, job: J) -> J::Out;

    /// `x` in all lanes.
    fn splat(self, x: f32) -> Self::Reg;
    /// # Safety
    /// `LANES` values must be readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::Reg;
    /// # Safety
    /// `LANES` values must be writable at `p`.
    unsafe fn store(self, p: *mut f32, x: Self::Reg);
    /// The first `n` values, at most `LANES`, and zeros; touches nothing behind them.
    ///
    /// # Safety
    /// `min(n, LANES)` values must be readable at `p`.
    unsafe fn load_some(self, p: *const f32, n: usize) -> Self::Reg;
    /// Stores the first `n` lanes, at most `LANES`; touches nothing behind them.
    ///
    /// # Safety
    /// `min(n, LANES)` values must be writable at `p`.
    unsafe fn store_some(self, p: *mut f32, x: Self::Reg, n: usize);
    /// Two registers from `2 * LANES` bfloat16: lane `l` of the first from the low half of the 32-bit
    /// word `l`, of the second from its high half.
    ///
    /// # Safety
    /// `2 * LANES` values must be readable at `p`.
    unsafe fn load_bf16(self, p: *const u16) -> [Self::Reg; 2];
    /// Stores two registers as bfloat16, rounded to nearest, ties to even, `lo` first.
    ///
    /// # Safety
    /// `2 * LANES` values must be writable at `p`.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, lo: Self::Reg, hi: Self::Reg) {
        let mut x = [0.0; 2 * MAX_LANES];
        // SAFETY: the array holds two registers of any instruction set, `p` as many values.
        unsafe {
            self.store(x.as_mut_ptr(), lo);
            self.store(x[Self::LANES..].as_mut_ptr(), hi);
            (0..2 * Self::LANES).for_each(|i| *p.add(i) = round_bf16(x[i]));
        }
    }
    /// Stores two registers as words of two bfloat16, as [`Vector::load_bf16`] reads them: `even` in the low halves.
    ///
    /// # Safety
    /// `2 * LANES` values must be writable at `p`.
    #[inline(always)]
    unsafe fn store_bf16_pairs(self, p: *mut u16, even: Self::Reg, odd: Self::Reg) {
        let mut x = [[0.0; MAX_LANES]; 2];
        // SAFETY: each array holds a register of any instruction set, `p` as many values as two.
        unsafe {
            self.store(x[0].as_mut_ptr(), even);
            self.store(x[1].as_mut_ptr(), odd);
            (0..2 * Self::LANES).for_each(|i| *p.add(i) = round_bf16(x[i % 2][i / 2]));
        }
    }
    /// `LANES` signed bytes, widened.
    ///
    /// # Safety
    /// `LANES` values must be readable at `p`.
    unsafe fn load_i8(self, p: *const i8) -> Self::Reg;

    /// `a + b`.
    fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    /// `a * b`.
    fn mul(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    /// `a / b`.
    fn div(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    /// The square root, rounded once.
    fn sqrt(self, a: Self::Reg) -> Self::Reg;
    /// `a * b + c`, rounded once where the hardware can.
    fn fma(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg;
    /// The smaller one, lane by lane.
    fn min(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    /// The greater one, lane by lane.
    fn max(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    /// `2^n` of integral `n` in `-126..=127`.
    fn pow2(self, n: Self::Reg) -> Self::Reg;

    /// Positions for [`Vector::permute`]: lane `l` takes value `at(l)` of `2 * LANES`.
    fn index(self, at: impl Fn(usize) -> usize) -> Self::Index;
    /// Lanes picked from the `2 * LANES` values of `lo` and `hi`.
    fn permute(self, lo: Self::Reg, hi: Self::Reg, index: Self::Index) -> Self::Reg;
    /// Asks for the cache line at `p`, which may be any address.
    fn prefetch(self, p: *const u8);
    /// The same, for the first-level cache.
    #[inline(always)]
    fn prefetch_near(self, p: *const u8) {
        self.prefetch(p);
    }
    /// Asks for the cache line at `p`, which may be any address, to be written to.
    fn prefetch_to_write(self, p: *const f32);
}

/// A computation that is compiled once for each instruction set.
///
/// `run` must be `#[inline(always)]`: it is inlined into the function that has the target features.
pub(crate) trait Job {
    /// What it returns.
    type Out;
    /// Does it.
    fn run<V: Vector>(self, v: V) -> Self::Out;
}
