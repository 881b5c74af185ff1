//! The least time that a layer can take on the reference machine.

use dynet_engine::LayerInfo;

/// Floating-point operations a second of one core: two AVX-512 multiply-adds of 16 lanes a cycle at some 4 GHz,
/// measured.
const PEAK: f64 = 260e9;
/// Bytes a second from memory, all cores, measured.
const MEMORY: f64 = 46e9;
/// Bytes a second from the last-level cache, measured, and what it holds.
const CACHE: f64 = 130e9;
const CACHE_BYTES: usize = 32 << 20;
/// Cores of the reference machine.
const CORES: usize = 2;

fn seconds(madds: u64, bytes: usize, bandwidth: f64, batch: usize, threads: usize) -> f64 {
    let arithmetic = 2.0 * madds as f64 * batch as f64 / (PEAK * threads.min(CORES) as f64);
    arithmetic.max(bytes as f64 / bandwidth)
}

/// `max(MAdds / peak, bytes of weights / bandwidth)` of one layer, whose weights are taken to come from the cache.
pub(crate) fn layer(layer: &LayerInfo, batch: usize, threads: usize) -> f64 {
    seconds(layer.madds + layer.fusion_madds, layer.weight_bytes, CACHE, batch, threads)
}

/// The same of a whole net: from memory where its weights do not fit into the cache.
pub(crate) fn total(layers: &[LayerInfo], batch: usize, threads: usize) -> f64 {
    let madds = layers.iter().map(|l| l.madds + l.fusion_madds).sum();
    let bytes = layers.iter().map(|l| l.weight_bytes).sum();
    seconds(madds, bytes, if bytes > CACHE_BYTES { MEMORY } else { CACHE }, batch, threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_arithmetic_and_memory_counts() {
        // 2.6e9 operations on two cores: 5 ms; 46 MB: 1 ms.
        assert!((seconds(1_300_000_000, 46_000_000, MEMORY, 1, 2) - 5e-3).abs() < 1e-9);
        assert!((seconds(1_000, 46_000_000, MEMORY, 8, 2) - 1e-3).abs() < 1e-9);
    }
}
