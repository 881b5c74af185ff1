//! Streams feature maps and coefficients of one model into statistics.

use dynet_net::{Net, NodeId, Shape, Weights};
use rayon::prelude::*;

use crate::cka::FeatureGram;
use crate::coefficients::{CoefRows, CoefStats};
use crate::correlation::{Bands, Correlation};
use crate::error::AnalysisError;
use crate::gram::Gram;
use crate::kernels::{ExpertStats, expert_cosine, kernel_cosine, mean_kernels};
use crate::layers::{Layer, MapKind, describe, layers};

/// Correlation of the channels of one layer's feature maps of `n` images, over images and positions.
///
/// # Shapes
/// `maps [n][c][h][w]`.
///
/// # Panics
/// If the map does not have the values of `n` images of this shape.
pub fn channel_correlation(maps: &[f32], n: usize, shape: Shape, bands: &Bands) -> Correlation {
    assert_eq!(maps.len(), n * shape.len(), "values of {n} images of {shape}");
    let pixels = shape.pixels();
    let mut gram = Gram::new(shape.c, true);
    for map in maps.chunks_exact(shape.len()) {
        gram.add(pixels, |row, channel| map[channel * pixels + row]);
    }
    Correlation::pearson(&gram.finish(), bands)
}

/// What is computed, and how exactly.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which output of a convolution is its feature map.
    pub maps: MapKind,
    /// Bands of |r|.
    pub bands: Bands,
    /// Positions of an image that enter the correlation of a layer. Maps with more are sampled: one position, drawn by
    /// `seed`, layer and image, in each of this many equal stretches of the map.
    pub positions: usize,
    /// Where the choice of positions comes from.
    pub seed: u64,
    /// Images whose coefficients are kept.
    pub coefficient_images: usize,
    /// Images between which layers are compared (CKA); their pooled features are kept.
    pub cka_images: usize,
    /// The image whose most alike feature maps are drawn; `None` for no picture of any image.
    pub picture: Option<usize>,
    /// Most channels of a layer whose matrices the report writes as numbers too.
    pub matrix_channels: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            maps: MapKind::Activated,
            bands: Bands::default(),
            // 112 x 112 positions are all taken, 224 x 224 are sampled.
            positions: 16_384,
            seed: 0,
            coefficient_images: 1000,
            cka_images: 512,
            picture: Some(0),
            // 65,536 values, about 0.6 MB as CSV: 15 MB for a ResNet18.
            matrix_channels: 256,
        }
    }
}

/// Feature maps of one image that are most alike.
#[derive(Clone, Debug)]
pub struct AlikePair {
    /// The two channels.
    pub channels: [usize; 2],
    /// Their correlation over all images.
    pub r: f32,
    /// Their maps of the one image, `[h][w]`.
    pub maps: [Vec<f32>; 2],
}

/// Everything about one convolution.
#[derive(Clone, Debug)]
pub struct LayerAnalysis {
    /// Module path.
    pub name: String,
    /// Its kernel in words.
    pub kernel: String,
    /// Shape of its output.
    pub shape: Shape,
    /// Fixed kernels per output channel; 1 for a static layer.
    pub experts: usize,
    /// Pixels of all images that entered the correlation.
    pub pixels: u64,
    /// Correlation of the channels of its feature map.
    pub maps: Correlation,
    /// Cosines of its kernels; of a dynamic layer, of the experts fused with their mean coefficients.
    pub kernels: Correlation,
    /// Cosines of the experts among themselves.
    pub expert_cosine: Option<ExpertStats>,
    /// Coefficients of a dynamic layer.
    pub coefficients: Option<CoefStats>,
    /// Most alike feature maps.
    pub alike: Vec<AlikePair>,
    /// Products of features for CKA.
    pub features: Option<FeatureGram>,
}

struct LayerState {
    layer: Layer,
    gram: Gram,
    coefficients: Option<CoefRows>,
    /// Means over the positions, `[n][c]`.
    pooled: Vec<f32>,
    /// The map of the pictured image, `[c][h][w]`.
    picture: Vec<f32>,
}

/// Takes in feature maps and coefficients image by image; [`Collector::finish`] gives the analysis.
pub struct Collector {
    net: Net,
    options: Options,
    states: Vec<LayerState>,
}

impl Collector {
    /// For all convolutions of a net.
    ///
    /// # Errors
    /// Options out of range, or a net without a convolution.
    pub fn new(net: &Net, options: &Options) -> Result<Self, AnalysisError> {
        if options.positions == 0 {
            let expected = "at least 1".into();
            return Err(AnalysisError::Option { name: "positions", expected, got: "0".into() });
        }
        let state = |layer: Layer| LayerState {
            gram: Gram::new(layer.shape.c, true),
            coefficients: layer.coefficients.map(|c| CoefRows {
                experts: c.experts,
                channels: c.channels,
                rows: Vec::new(),
            }),
            pooled: Vec::new(),
            picture: Vec::new(),
            layer,
        };
        let states: Vec<LayerState> = layers(net, options.maps).into_iter().map(state).collect();
        if states.is_empty() {
            return Err(AnalysisError::NoConvolution { model: net.name().into() });
        }
        Ok(Self { net: net.clone(), options: options.clone(), states })
    }

    /// The nodes whose outputs are read, each once, in the order in which they run.
    pub fn nodes(&self) -> Vec<NodeId> {
        let maps = self.states.iter().map(|s| s.layer.map);
        let predictors = self.states.iter().filter_map(|s| s.layer.coefficients.map(|c| c.predictor));
        let mut nodes: Vec<NodeId> = maps.chain(predictors).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Takes in the output of one of [`Collector::nodes`] for image `image`, counted over all batches. Images come in
    /// their order.
    ///
    /// # Shapes
    /// `values [c][h][w]`, or the coefficients of a predictor, head behind head, each `[experts][channels]`.
    ///
    /// # Errors
    /// An output of another size than the net says.
    pub fn look(&mut self, image: usize, node: NodeId, values: &[f32]) -> Result<(), AnalysisError> {
        let (expected, got) = (self.net.node(node).shape.len(), values.len());
        if expected != got {
            let layer = self.net.node(node).name.clone();
            return Err(AnalysisError::MapSize { layer, expected, got });
        }
        for (number, state) in self.states.iter_mut().enumerate() {
            if state.layer.map == node {
                state.add_map(values, image, number, &self.options);
            }
            if let (Some(source), Some(rows)) = (state.layer.coefficients, &mut state.coefficients)
                && source.predictor == node
                && image < self.options.coefficient_images
            {
                rows.rows.extend_from_slice(&values[source.offset..][..source.experts * source.channels]);
            }
        }
        Ok(())
    }

    /// The analysis of all layers, given the class of each image.
    ///
    /// # Errors
    /// Weights that do not fit the net, no image, or feature maps that are not finite.
    pub fn finish(self, weights: &Weights, classes: &[usize]) -> Result<Vec<LayerAnalysis>, AnalysisError> {
        let Self { net, options, states } = self;
        weights.check(&net)?;
        if classes.is_empty() || states.iter().any(|s| s.gram.rows() == 0) {
            return Err(AnalysisError::NoImages { model: net.name().into() });
        }
        let analyse = |state: LayerState| state.finish(&options, weights, classes);
        states.into_par_iter().map(analyse).collect()
    }
}

impl LayerState {
    fn add_map(&mut self, map: &[f32], image: usize, number: usize, options: &Options) {
        let pixels = self.layer.shape.pixels();
        let sampled = options.positions.min(pixels);
        if sampled == pixels {
            self.gram.add(pixels, |row, channel| map[channel * pixels + row]);
        } else {
            let key = [options.seed, number as u64, image as u64];
            let draw = |i| drawn_position(key, i, sampled, pixels);
            let positions: Vec<usize> = (0..sampled).map(draw).collect();
            self.gram.add(sampled, |row, channel| map[channel * pixels + positions[row]]);
        }
        if image < options.cka_images {
            let mean = |channel: &[f32]| channel.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels as f64;
            self.pooled.extend(map.chunks_exact(pixels).map(|channel| mean(channel) as f32));
        }
        if options.picture == Some(image) {
            self.picture = map.to_vec();
        }
    }

    fn finish(
        self,
        options: &Options,
        weights: &Weights,
        classes: &[usize],
    ) -> Result<LayerAnalysis, AnalysisError> {
        /// Pairs of feature maps that are drawn.
        const DRAWN: usize = 4;
        let Self { layer, gram, coefficients, pooled, picture } = self;
        let pixels = gram.rows();
        let moments = gram.finish();
        if moments.products.iter().any(|v| !v.is_finite()) {
            return Err(AnalysisError::NotFinite { layer: layer.name });
        }
        let maps = Correlation::pearson(&moments, &options.bands);
        drop(moments);
        let none: &[f32] = &[];
        let weight = weights.get(&format!("{}.weight", layer.name)).map_or(none, |t| &t.data);
        let mean = coefficients.as_ref().map(|c| (c.mean(), c.channels));
        let mean = mean.as_ref().map(|(mean, channels)| (&mean[..], *channels));
        let kernels = mean_kernels(&layer.conv, weight, mean);
        let experts = layer.conv.dynamic.map_or(1, |d| d.experts);
        let alike = if picture.is_empty() { Vec::new() } else { maps.most_alike(DRAWN) };
        let one = layer.shape.pixels();
        let alike = alike.into_iter().map(|(channels, r)| AlikePair {
            channels,
            r,
            maps: channels.map(|c| picture[c * one..(c + 1) * one].to_vec()),
        });
        Ok(LayerAnalysis {
            kernel: describe(&layer.conv),
            shape: layer.shape,
            experts,
            pixels,
            kernels: kernel_cosine(&kernels, layer.conv.c_out, &options.bands),
            expert_cosine: expert_cosine(weight, experts, layer.conv.c_out, &options.bands),
            coefficients: coefficients.map(|c| c.stats(classes)),
            alike: alike.collect(),
            features: (!pooled.is_empty()).then(|| FeatureGram::new(&pooled, layer.shape.c)),
            maps,
            name: layer.name,
        })
    }
}

/// One position of the `i`-th of `count` equal stretches of a map, drawn anew for each key.
fn drawn_position(key: [u64; 3], i: usize, count: usize, pixels: usize) -> usize {
    // SplitMix64's finaliser over the key: enough to follow neither rows nor columns.
    let mut x = key.into_iter().chain([i as u64]).fold(0u64, |hash, part| {
        let mut x = hash.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    });
    x >>= 11;
    let fraction = x as f64 / (1u64 << 53) as f64;
    (((i as f64 + fraction) * pixels as f64 / count as f64) as usize).min(pixels - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_one_a_stretch_and_differ_by_image() {
        let draw = |image: u64| -> Vec<usize> {
            (0..100).map(|i| drawn_position([1, 2, image], i, 100, 1000)).collect()
        };
        for (i, p) in draw(3).into_iter().enumerate() {
            assert!((i * 10..(i + 1) * 10).contains(&p), "{i}: {p}");
        }
        assert_ne!(draw(3), draw(4));
        assert_eq!(draw(3), draw(3));
    }
}
