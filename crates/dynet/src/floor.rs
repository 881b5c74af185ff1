//! The least time that a layer can take on this machine.

use dynet_engine::{LayerInfo, Peaks};

/// Weights that a last-level cache keeps from one run to the next.
const CACHE_BYTES: usize = 32 << 20;

/// What a machine can do, and what a net lets it do.
pub(crate) struct Floor {
    peaks: Peaks,
    /// Bytes a second at which weights come.
    weights: f64,
}

impl Floor {
    /// The floor of a net's layers: their weights come from memory where the cache cannot hold them all.
    pub(crate) fn new(peaks: Peaks, layers: &[LayerInfo]) -> Self {
        let bytes: usize = once(layers).map(|l| l.weight_bytes).sum();
        Self { peaks, weights: if bytes > CACHE_BYTES { peaks.memory } else { peaks.cache } }
    }

    /// `max(MAdds / peak, bytes of weights / bandwidth)` of one layer, in seconds.
    pub(crate) fn layer(&self, layer: &LayerInfo, batch: usize) -> f64 {
        self.seconds(madds(layer), layer.weight_bytes, batch)
    }

    /// The same of a whole net: as if everything overlapped.
    pub(crate) fn total(&self, layers: &[LayerInfo], batch: usize) -> f64 {
        let madds = once(layers).map(madds).fold([0; 2], |sum, m| [sum[0] + m[0], sum[1] + m[1]]);
        self.seconds(madds, once(layers).map(|l| l.weight_bytes).sum(), batch)
    }

    /// Multiply-adds are those of f32 and those of bfloat16.
    fn seconds(&self, madds: [u64; 2], bytes: usize, batch: usize) -> f64 {
        let [f32, bf16] = madds.map(|m| 2.0 * m as f64 * batch as f64);
        let arithmetic = f32 / self.peaks.flops + bf16 / self.peaks.bf16_flops;
        arithmetic.max(bytes as f64 / self.weights)
    }
}

/// What a net cannot do without: not what it computes twice.
fn once(layers: &[LayerInfo]) -> impl Iterator<Item = &LayerInfo> {
    layers.iter().filter(|layer| !layer.is_repeated)
}

/// Multiply-adds of f32, fusing among them, and of bfloat16.
fn madds(layer: &LayerInfo) -> [u64; 2] {
    [layer.madds - layer.bf16_madds + layer.fusion_madds, layer.bf16_madds]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_arithmetic_and_memory_counts() {
        let floor = Floor::new(Peaks { flops: 520e9, bf16_flops: 5200e9, memory: 46e9, cache: 130e9 }, &[]);
        // 2.6e9 operations: 5 ms; 130 MB from the cache: 1 ms.
        assert!((floor.seconds([1_300_000_000, 0], 130_000_000, 1) - 5e-3).abs() < 1e-9);
        // Ten times as fast, on top of what is left in f32.
        assert!((floor.seconds([650_000_000, 6_500_000_000], 130_000_000, 1) - 5e-3).abs() < 1e-9);
        assert!((floor.seconds([1_000, 0], 130_000_000, 8) - 1e-3).abs() < 1e-9);
    }
}
