//! Image datasets, decoding and augmentation.
//!
//! [`open`] gives the parts of a data set, [`batches`] what a net trains on, [`preprocess`] what it is given
//! for one image.
#![forbid(unsafe_code)]

mod augment;
mod batches;
mod builtin;
mod cifar;
mod dataset;
mod error;
mod folder;
mod idx;
mod image;
mod jitter;
mod mix;
mod preprocess;
mod random;
mod source;
mod split;

pub use augment::{Augment, Crop};
pub use batches::{Batch, BatchOptions, Batches, Target, batches};
pub use dataset::Dataset;
pub use error::DataError;
pub use folder::image_files;
pub use image::{DecodeLimits, Image, decode_file};
pub use jitter::Jitter;
pub use preprocess::{channel_statistics, preprocess};
pub use source::{OpenOptions, Skipped, Source, Splits, open};
