//! Opening a data set: from the program itself, or from a folder whose content tells its kind.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use dynet_net::Channels;
use serde::{Deserialize, Serialize};

use crate::split::balanced;
use crate::{DataError, Dataset, DecodeLimits, builtin, cifar, folder, idx};

/// Where images come from; as text, `builtin` or a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Source {
    /// The images inside the program.
    #[default]
    Builtin,
    /// A folder: see [`open`].
    Path(PathBuf),
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        if text == "builtin" { Self::Builtin } else { Self::Path(text.into()) }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("builtin"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// How to open a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOptions {
    /// Share of the training images that become validation images where the source has none of its own.
    pub val_fraction: f32,
    /// Where the choice of them comes from.
    pub seed: u64,
    /// Draw validation and test images where the source has none of its own. Without this there is then no test
    /// set, and the validation set is empty.
    pub draw: bool,
    /// Decode every image file now and leave out those that cannot be read.
    pub skip_bad: bool,
    /// Limits on what is read.
    pub limits: DecodeLimits,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { val_fraction: 0.1, seed: 0, draw: true, skip_bad: false, limits: DecodeLimits::default() }
    }
}

/// An image that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub reason: String,
}

/// A data set in its parts.
#[derive(Clone, Debug)]
pub struct Splits {
    /// What it is called: `builtin`, or the folder's name.
    pub name: String,
    /// Names of the classes; their order gives the labels.
    pub classes: Vec<String>,
    /// Colour, unless every image is grey.
    pub channels: Channels,
    /// Height and width, if all images share them.
    pub size: Option<[usize; 2]>,
    /// Training images.
    pub train: Arc<Dataset>,
    /// Validation images.
    pub val: Arc<Dataset>,
    /// Test images, if there are any.
    pub test: Option<Arc<Dataset>>,
    /// What was left out, in the order of paths.
    pub skipped: Vec<Skipped>,
}

/// Opens a data set. The kind of a folder is told by what it holds, in this order:
///
/// - IDX files under their usual names (`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte.gz`, ..);
/// - the binary files of CIFAR-10 or CIFAR-100 under their usual names;
/// - ImageFolder: `train/CLASS/` and, if there, `val/CLASS/` and `test/CLASS/`, with image files at any depth;
/// - one folder of classes, `CLASS/`: `val_fraction` of the images become test images, and then as many of
///   the others validation images.
///
/// Where there are no validation images, `val_fraction` of the training images become some. Every such split is
/// seeded and balanced: the same share of each class. [`OpenOptions::draw`] turns them off.
///
/// An image file that cannot be decoded is an error when it is met, here or in [`Dataset::image`]. With
/// `skip_bad`, all files are decoded here, once, on all cores, and [`Splits::skipped`] lists those that failed.
///
/// # Errors
/// [`DataError`] for settings out of range, and for files that cannot be read or are not what they should be.
pub fn open(source: &Source, options: &OpenOptions) -> Result<Splits, DataError> {
    if !(options.val_fraction > 0.0 && options.val_fraction < 1.0) {
        let expected = "above 0 and below 1";
        return Err(DataError::option("val_fraction", expected, options.val_fraction));
    }
    let found = match source {
        Source::Builtin => {
            let (train, test) = builtin::load()?;
            Found {
                name: source.to_string(),
                classes: builtin::CLASS_NAMES.map(str::to_owned).to_vec(),
                channels: Channels::Gray,
                size: Some([28, 28]),
                train,
                val: None,
                test: Some(test),
                skipped: Vec::new(),
            }
        }
        Source::Path(path) => open_folder(path, options)?,
    };
    Ok(found.split(options))
}

fn open_folder(path: &Path, options: &OpenOptions) -> Result<Found, DataError> {
    const LOOKED_FOR: &str = "train-images-idx3-ubyte[.gz] (IDX), data_batch_1.bin (CIFAR-10), train.bin \
                              (CIFAR-100), train/CLASS/*.jpg|jpeg|png, CLASS/*.jpg|jpeg|png";
    if !std::fs::metadata(path).map_err(DataError::io(path))?.is_dir() {
        return Err(DataError::format(path, "data set", "a folder", "a file"));
    }
    if idx::detect(path) {
        idx::open(path, &options.limits)
    } else if let Some(version) = cifar::detect(path) {
        cifar::open(path, version, &options.limits)
    } else if folder::detect(path)? {
        folder::open(path, options)
    } else {
        Err(DataError::NotADataset { path: path.to_path_buf(), looked_for: LOOKED_FOR })
    }
}

/// What to call the data set in `folder`.
pub(crate) fn folder_name(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // A path such as `..` has its name only once it is resolved.
    let resolved = || folder.canonicalize().ok().as_deref().and_then(name);
    name(folder).or_else(resolved).unwrap_or_else(|| folder.display().to_string())
}

/// What a source holds, before validation images are drawn where it has none.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) classes: Vec<String>,
    pub(crate) channels: Channels,
    pub(crate) size: Option<[usize; 2]>,
    pub(crate) train: Dataset,
    pub(crate) val: Option<Dataset>,
    pub(crate) test: Option<Dataset>,
    pub(crate) skipped: Vec<Skipped>,
}

impl Found {
    fn split(self, options: &OpenOptions) -> Splits {
        let (train, val) = match self.val {
            Some(val) => (self.train, val),
            None if !options.draw => {
                let none = self.train.subset(&[]);
                (self.train, none)
            }
            None => {
                let (rest, drawn) = balanced(self.train.labels(), options.val_fraction, options.seed, 0);
                (self.train.subset(&rest), self.train.subset(&drawn))
            }
        };
        Splits {
            name: self.name,
            classes: self.classes,
            channels: self.channels,
            size: self.size,
            train: Arc::new(train),
            val: Arc::new(val),
            test: self.test.map(Arc::new),
            skipped: self.skipped,
        }
    }
}
