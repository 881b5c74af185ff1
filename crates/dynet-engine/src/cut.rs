//! Where a batch stops to run image by image.
//!
//! Early layers have large maps and few weights: each thread runs an image of its own through them, whose maps stay in
//! its cache, and waits for nobody. Later layers have small maps and many weights: all images run over a panel of
//! weights while it is in cache.

use crate::error::PlanError;
use crate::layout::{Layout, Lifetime};
use crate::plan::LayerInfo;

/// Buffers that may be handed from one half to the other.
pub(crate) const MAX_HANDED: usize = 4;
/// Images of the batch that the cut is made for.
const IMAGES: usize = 8;
/// Bytes that a core finds in its caches again; what is more comes from memory.
const CACHED_BYTES: usize = 16 << 20;
/// What a byte from memory costs, where one from the last cache costs 1: some 12 and 36 GB/s.
const FROM_MEMORY: usize = 3;

/// The two halves of a plan.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The first step that all images of a batch run through together.
    pub(crate) step: usize,
    /// Memory of what lives from that step on.
    pub(crate) layout: Layout,
    /// Buffers that are made before and read behind it, by their place in the layout.
    pub(crate) handed: Vec<usize>,
}

impl Cut {
    /// The cut that lets the fewest bytes travel: in front of it each image reads the weights anew, behind it the maps
    /// of all images leave the cache between layers. `may(step)` tells whether it may lie in front of a step.
    ///
    /// # Errors
    /// If the memory behind it is too large.
    pub(crate) fn new(
        layers: &[LayerInfo],
        buffers: &[Lifetime],
        may: impl Fn(usize) -> bool,
    ) -> Result<Self, PlanError> {
        let step = best(layers, buffers, may);
        let behind: Vec<Lifetime> = buffers
            .iter()
            .map(|b| match b.last < step {
                true => Lifetime { len: 0, ..*b },
                // What is handed over comes before the first step behind the cut.
                false => Lifetime { first: b.first.max(step.saturating_sub(1)), ..*b },
            })
            .collect();
        let layout = Layout::new(&behind)?;
        let mut handed: Vec<usize> = handed(buffers, step).collect();
        handed.sort_by_key(|&buffer| layout.offsets[buffer]);
        Ok(Self { step, layout, handed })
    }
}

/// Buffers that cross a cut.
fn handed(buffers: &[Lifetime], step: usize) -> impl Iterator<Item = usize> + '_ {
    (0..buffers.len()).filter(move |&i| buffers[i].first < step && step <= buffers[i].last)
}

fn best(layers: &[LayerInfo], buffers: &[Lifetime], may: impl Fn(usize) -> bool) -> usize {
    let cost = |bytes: usize, of: usize| bytes * if of > CACHED_BYTES { FROM_MEMORY } else { 1 };
    let all = layers.iter().map(|l| l.weight_bytes).sum();
    let total = |step: usize| -> usize {
        let weights: usize = layers[..step].iter().map(|l| cost(l.weight_bytes, all)).sum();
        let maps = layers[step..].iter().map(|l| cost(l.map_bytes, IMAGES * l.map_bytes));
        weights + maps.sum::<usize>()
    };
    let possible =
        (0..=layers.len()).filter(|&step| may(step) && handed(buffers, step).count() <= MAX_HANDED);
    possible.min_by_key(|&step| total(step)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynet_net::Shape;

    fn layer(weight_bytes: usize, map_bytes: usize) -> LayerInfo {
        LayerInfo {
            name: String::new(),
            algorithm: "",
            output: Shape { c: 1, h: 1, w: 1 },
            madds: 0,
            bf16_madds: 0,
            fusion_madds: 0,
            weight_bytes,
            map_bytes,
            is_predictor: false,
            is_repeated: false,
        }
    }

    #[test]
    fn large_maps_come_before_the_cut_and_many_weights_behind_it() {
        let layers = [layer(10, 4000), layer(40, 2000), layer(900, 500), layer(4000, 100)];
        let chain: Vec<Lifetime> =
            (0..4).map(|i| Lifetime { first: i, last: i + 1, ..Lifetime::new(16) }).collect();
        let cut = Cut::new(&layers, &chain, |_| true).unwrap();
        assert_eq!((cut.step, &cut.handed[..]), (2, &[1][..]));
        // The maps 1, 2 and 3: two of them at a time.
        assert_eq!(cut.layout.len, 32);
        assert_eq!(Cut::new(&layers, &chain, |step| step != 2).unwrap().step, 3);
    }

    #[test]
    fn no_more_is_handed_over_than_a_session_can_take() {
        let layers = [layer(0, 100), layer(0, 100), layer(100, 0)];
        let crossing = |n: usize| vec![Lifetime { first: 0, last: 3, ..Lifetime::new(16) }; n];
        assert_eq!(Cut::new(&layers, &crossing(MAX_HANDED), |_| true).unwrap().step, 2);
        assert_eq!(Cut::new(&layers, &crossing(MAX_HANDED + 1), |_| true).unwrap().step, 0);
    }
}
