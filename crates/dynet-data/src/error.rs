//! What can go wrong with data, always with the name of what it went wrong with.

use std::path::{Path, PathBuf};

/// A data set, file or setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image file that is damaged, cut off or of an unknown format.
    #[error("{path}: cannot be decoded: {reason}", path = path.display())]
    Decode {
        /// The image file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// Something larger than the limits of [`crate::DecodeLimits`] allow.
    #[error("{path}: {what}: expected at most {limit}, got {got}", path = path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was measured.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The measure.
        got: u64,
    },
    /// A file of many images (IDX, CIFAR, the built-in one) or a folder that is not what it should be.
    #[error("{path}: {field}: expected {expected}, got {got}", path = path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// The part of it.
        field: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A folder in which no kind of data set was found.
    #[error("{path}: no data set found; looked for {looked_for}", path = path.display())]
    NotADataset {
        /// The folder.
        path: PathBuf,
        /// The kinds of data set that were looked for.
        looked_for: &'static str,
    },
    /// A setting that is out of range.
    #[error("{field}: expected {expected}, got {got}")]
    Option {
        /// Name of the setting.
        field: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// An image's number beyond the end of its data set.
    #[error("image {index}: expected a number below {len}, the number of images")]
    Index {
        /// The number.
        index: usize,
        /// Images in the data set.
        len: usize,
    },
    /// Preprocessing that cannot be applied.
    #[error(transparent)]
    Preprocessing(#[from] dynet_net::preprocessing::PreprocessingError),
    /// A worker thread ended in a panic: an error of this program.
    #[error("a data worker panicked: {0}")]
    Worker(String),
}

impl DataError {
    /// For `map_err` at a file operation on `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn decode(path: &Path, reason: impl ToString) -> Self {
        Self::Decode { path: path.to_path_buf(), reason: reason.to_string() }
    }

    pub(crate) fn format(
        path: &Path,
        field: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Self::Format { path: path.to_path_buf(), field, expected: expected.to_string(), got: got.to_string() }
    }

    pub(crate) fn option(field: &'static str, expected: impl ToString, got: impl ToString) -> Self {
        Self::Option { field, expected: expected.to_string(), got: got.to_string() }
    }
}
