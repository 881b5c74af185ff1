//! A set of labelled images: bytes in memory, or files decoded when asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dynet_net::Channels;

use crate::{DataError, DecodeLimits, Image, decode_file};

/// Labelled images, numbered from 0. Cheap to take subsets of: the pixels are shared.
#[derive(Clone, Debug)]
pub struct Dataset {
    labels: Vec<u32>,
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    /// Images of one size in memory; `which[i]` is the place of image `i`.
    Packed { images: Arc<Packed>, which: Vec<u32> },
    /// Image files.
    Files { paths: Vec<PathBuf>, limits: DecodeLimits },
}

/// Images of one size, one after the other, each `[height][width][channels]`.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Where they come from, for [`Dataset::name_of`].
    pub(crate) origin: String,
    pub(crate) size: [usize; 2],
    pub(crate) channels: Channels,
    pub(crate) pixels: Vec<u8>,
}

impl Packed {
    fn image_bytes(&self) -> usize {
        self.size[0] * self.size[1] * self.channels.count()
    }
}

impl Dataset {
    /// All of `images`, with a label for each.
    pub(crate) fn packed(images: Packed, labels: Vec<u32>) -> Self {
        debug_assert_eq!(images.pixels.len(), labels.len() * images.image_bytes(), "one label an image");
        let which = (0..labels.len() as u32).collect();
        Self { labels, store: Store::Packed { images: Arc::new(images), which } }
    }

    pub(crate) fn files(files: Vec<(PathBuf, u32)>, limits: DecodeLimits) -> Self {
        let (paths, labels) = files.into_iter().unzip();
        Self { labels, store: Store::Files { paths, limits } }
    }

    /// Images in memory, all of the first one's size and channels, each with its label.
    ///
    /// # Errors
    /// [`DataError::Format`] where an image differs from the first in size or channels or does not have the
    /// pixels that its size says.
    pub fn from_images(
        images: impl IntoIterator<Item = (Image, usize)>,
        origin: &str,
    ) -> Result<Self, DataError> {
        let mut packed =
            Packed { origin: origin.to_owned(), size: [0, 0], channels: Channels::Gray, pixels: Vec::new() };
        let mut labels = Vec::new();
        for (image, label) in images {
            if labels.is_empty() {
                (packed.size, packed.channels) = ([image.height, image.width], image.channels);
            }
            let (expected, got) =
                ((packed.size, packed.channels), ([image.height, image.width], image.channels));
            if expected != got || image.pixels.len() != packed.image_bytes() {
                let got = format!("{got:?} in {} bytes", image.pixels.len());
                return Err(DataError::format(
                    Path::new(origin),
                    "size and channels",
                    format!("{expected:?}"),
                    got,
                ));
            }
            packed.pixels.extend(image.pixels);
            labels.push(label as u32);
        }
        Ok(Self::packed(packed, labels))
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of image `index`, as a number; 0 where there is no such image.
    pub fn label(&self, index: usize) -> usize {
        self.labels.get(index).map_or(0, |&label| label as usize)
    }

    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Image `index`, read and decoded now if it is a file.
    ///
    /// # Errors
    /// [`DataError::Index`] where there is no such image; what [`decode_file`] gives.
    pub fn image(&self, index: usize) -> Result<Image, DataError> {
        let missing = || DataError::Index { index, len: self.len() };
        match &self.store {
            Store::Files { paths, limits } => decode_file(paths.get(index).ok_or_else(missing)?, limits),
            Store::Packed { images, which } => {
                let (start, bytes) = (*which.get(index).ok_or_else(missing)? as usize, images.image_bytes());
                let pixels = images.pixels.get(start * bytes..(start + 1) * bytes).ok_or_else(missing)?;
                let [height, width] = images.size;
                Ok(Image { width, height, channels: images.channels, pixels: pixels.to_vec() })
            }
        }
    }

    /// The file of image `index`, or its number in the file that holds it: what to call it in a report.
    pub fn name_of(&self, index: usize) -> String {
        let name = match &self.store {
            Store::Files { paths, .. } => paths.get(index).map(|path| path.display().to_string()),
            Store::Packed { images, which } => {
                which.get(index).map(|number| format!("{}[{number}]", images.origin))
            }
        };
        name.unwrap_or_else(|| format!("no image {index}"))
    }

    /// The images `indices` in that order; numbers beyond the end are left out.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let kept: Vec<usize> = indices.iter().copied().filter(|&i| i < self.len()).collect();
        let store = match &self.store {
            Store::Files { paths, limits } => {
                Store::Files { paths: kept.iter().map(|&i| paths[i].clone()).collect(), limits: *limits }
            }
            Store::Packed { images, which } => {
                Store::Packed { images: Arc::clone(images), which: kept.iter().map(|&i| which[i]).collect() }
            }
        };
        Self { labels: kept.iter().map(|&i| self.labels[i]).collect(), store }
    }
}
