//! Analysis of the redundancy of trained networks: correlation of feature maps and kernels, coefficients of dynamic
//! layers, and the report that shows both.
//!
//! A [`Collector`] takes in feature maps batch by batch, from whatever runs the net ([`Taps`]), and gives a
//! [`LayerAnalysis`] for each convolution.
#![forbid(unsafe_code)]

mod cka;
mod cluster;
mod coefficients;
mod collect;
mod correlation;
mod eigen;
mod error;
mod figures;
mod files;
mod gram;
mod kernels;
mod layers;
mod page;
mod pca;
mod report;

pub use cka::{Cka, FeatureGram};
pub use coefficients::{COEF_BINS, COLLAPSED, CoefStats, Collapse, MapPoint};
pub use collect::{AlikePair, Collector, LayerAnalysis, Layout, Map, Options, Taps, channel_correlation};
pub use correlation::{BINS, Bands, Correlation, NEAR_ZERO, PairStats};
pub use error::AnalysisError;
pub use files::Written;
pub use kernels::{ExpertStats, kernel_cosine};
pub use layers::MapKind;
pub use report::{CkaMatrix, ModelAnalysis, Report, Totals};
