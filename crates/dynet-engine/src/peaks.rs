//! What this machine can do at most, measured: what layers are compared with.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dynet_kernels::{
    Buffer, Conv, Epilogue, Isa, KernelShape, Panels, Pixels, Storage, Tile, conv, conv_bf16,
};

use crate::plan::Precision;

/// Time for each of the four loops, and rounds of which the best counts.
const TIME: Duration = Duration::from_millis(50);
const ROUNDS: u32 = 5;
/// Bytes that no cache holds, for all threads together.
const MEMORY_BYTES: usize = 128 << 20;
/// Bytes that leave the second-level cache and stay in the last one.
const CACHE_BYTES: usize = 8 << 20;

/// Rates of all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Floating-point operations a second, a multiply-add being two: a product that stays in the first-level cache.
    pub flops: f64,
    /// The same of bfloat16: a product that stays in the second-level cache, its pixels laid out for each of 8 panels anew.
    pub bf16_flops: f64,
    /// Bytes a second that are read from memory.
    pub memory: f64,
    /// Bytes a second that are read from the last-level cache.
    pub cache: f64,
}

impl Peaks {
    /// Measures for a fifth of a second.
    pub fn measure(isa: Isa, threads: usize) -> Self {
        let threads = threads.max(1);
        let [memory, cache] = [MEMORY_BYTES, CACHE_BYTES].map(|bytes| {
            let ones = vec![1_u64; bytes / threads / size_of::<u64>()];
            rate(threads, move || {
                let sum = ones.iter().fold(0_u64, |sum, x| sum.wrapping_add(*x));
                black_box(sum);
                size_of_val(&*ones) as f64
            })
        });
        let [flops, bf16_flops] = [Precision::F32, Precision::Bf16].map(|p| rate(threads, product(isa, p)));
        Self { flops, bf16_flops, memory, cache }
    }
}

/// What all threads do in a second, each of them calling `work`, which tells how much it did.
fn rate<W: FnMut() -> f64 + Clone + Send>(threads: usize, work: W) -> f64 {
    let one = |mut work: W| {
        work();
        // The best of some rounds: what else the machine does must not look like a low peak.
        let round = |_| {
            let (mut done, start) = (0.0, Instant::now());
            while start.elapsed() < TIME / ROUNDS {
                done += work();
            }
            done / start.elapsed().as_secs_f64()
        };
        (0..ROUNDS).map(round).fold(0.0, f64::max)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|_| {
                let work = work.clone();
                scope.spawn(move || one(work))
            })
            .collect();
        let own = one(work);
        // A thread that panicked has done nothing.
        own + others.into_iter().map(|other| other.join().unwrap_or(0.0)).sum::<f64>()
    })
}

/// 28 pixels, two tiles of 14, times a panel of 128 x 32: 30 KiB. Of bfloat16 64 pixels, two tiles of AMX, times 8 panels of
/// 384 x 32: 240 KiB.
fn product(isa: Isa, precision: Precision) -> impl FnMut() -> f64 + Clone + Send {
    let (pixels, k, n) = match precision {
        Precision::F32 => (28, 128, isa.nr()),
        Precision::Bf16 => (64, 384, 8 * isa.nr()),
    };
    let shape = KernelShape { experts: 1, c_out: n, c_in: k, taps: 1 };
    let weights = match precision {
        Precision::F32 => Panels::pack(isa, Storage::F32, shape, &vec![0.5; n * k]),
        Precision::Bf16 => Panels::pack_bf16(isa, shape, 1, &vec![0.5; n * k]),
    };
    let x = Buffer::from(&vec![0.25; pixels * k][..]);
    let mut out = Buffer::zeroed(pixels * n);
    let mut scratch = Buffer::zeroed(Conv::bf16_scratch_len(&weights, None, pixels));
    move || {
        let (x, epilogue) = (Pixels::new(&x, k), Epilogue::default());
        let c =
            Conv { x, taps: None, weights: &weights, coefs: None, groups: 1, input_scale: None, epilogue };
        for _ in 0..16 {
            let mut tile = Tile::whole(&mut out, pixels, n, n);
            match precision {
                Precision::F32 => conv(isa, &c, &mut [], &mut tile, None),
                Precision::Bf16 => conv_bf16(isa, &c, &mut scratch, &mut tile, None, &[]),
            }
        }
        black_box(&mut out);
        (16 * 2 * pixels * k * n) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_work_is_counted_once_for_each_thread() {
        // One unit a millisecond, slept away: 1000 a second and thread, or less on a busy machine.
        let work = || {
            std::thread::sleep(Duration::from_millis(1));
            1.0
        };
        let rate = rate(2, work);
        assert!((100.0..2001.0).contains(&rate), "{rate}");
    }
}
