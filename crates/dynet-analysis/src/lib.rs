//! Analysis of the redundancy of trained networks: correlation of feature maps and kernels, coefficients of dynamic
//! layers, and the report that shows both.
//!
//! [`analyze`] runs a model over images and gives a [`ModelAnalysis`]; a [`Report`] of one or several of them writes the
//! page and the files beside it. A [`Collector`] does the same for feature maps from elsewhere.
#![forbid(unsafe_code)]

mod cka;
mod cluster;
mod coefficients;
mod collect;
mod compare;
mod correlation;
mod eigen;
mod error;
mod figures;
mod files;
mod gram;
mod kernels;
mod layers;
mod numbers;
mod page;
mod pca;
mod report;
mod run;

pub use cka::{Cka, FeatureGram};
pub use coefficients::{COEF_BINS, COLLAPSED, CoefStats, Collapse, MapPoint};
pub use collect::{AlikePair, Collector, LayerAnalysis, Options, channel_correlation};
pub use compare::{ComparedRun, Comparison};
pub use correlation::{BINS, Bands, Correlation, NEAR_ZERO, PairStats};
pub use error::AnalysisError;
pub use files::Written;
pub use kernels::{ExpertStats, kernel_cosine};
pub use layers::MapKind;
pub use report::{CkaMatrix, ModelAnalysis, Report, Totals};
pub use run::{Subject, analyze};
