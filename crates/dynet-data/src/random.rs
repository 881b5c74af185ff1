//! Streams of random numbers, each a function of what it is for and of nothing else.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream is drawn for; two purposes never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Which images go to validation and test.
    Split,
    /// The order of an epoch.
    Order,
    /// The augmentation of one image.
    Augment,
    /// How one image is mixed with another.
    Mix,
}

/// The stream of `purpose` for (`seed`, `epoch`, `index`): the three numbers are its key.
pub(crate) fn stream(purpose: Purpose, seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (slot, number) in key.as_chunks_mut::<8>().0.iter_mut().zip([seed, epoch, index, purpose as u64]) {
        *slot = number.to_le_bytes();
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in `[low, high)`; `low` where the two are equal.
pub(crate) fn uniform(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// Uniform in `0..=last`.
pub(crate) fn up_to(rng: &mut ChaCha8Rng, last: usize) -> usize {
    // 32-bit draws on every platform: the stream must not depend on the width of usize.
    rng.random_range(0..=u32::try_from(last).unwrap_or(u32::MAX)) as usize
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, up_to(rng, last));
    }
}
