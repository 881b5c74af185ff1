//! A model in one file: net, weights, labels and preprocessing, as `.safetensors` with metadata.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{TensorView, serialize};
use safetensors::{Dtype, SafeTensors};

use crate::net::Net;
use crate::preprocessing::{Preprocessing, PreprocessingError};
use crate::weights::{Weights, WeightsError, to_bytes};

/// Version of the file format that this version of the crate writes.
pub const FORMAT: &str = "1";

const KEY_FORMAT: &str = "dynet.format";
const KEY_NET: &str = "dynet.net";
const KEY_LABELS: &str = "dynet.labels";
const KEY_PREPROCESSING: &str = "dynet.preprocessing";
const KEY_SHA256: &str = "dynet.sha256";

/// A net with everything that is needed to classify an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The net.
    pub net: Net,
    /// Its tensors.
    pub weights: Weights,
    /// Names of the classes, one a logit.
    pub labels: Vec<String>,
    /// How an image becomes its input.
    pub preprocessing: Preprocessing,
}

/// Why a model file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a model, or it is damaged.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// The tensors do not fit the net in the file.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
}

impl Model {
    /// Checks that net, weights, labels and preprocessing belong together.
    ///
    /// # Errors
    /// The part that does not fit, as text.
    fn check(&self) -> Result<(), String> {
        self.weights.check(&self.net).map_err(|e| e.to_string())?;
        self.preprocessing.check().map_err(|e: PreprocessingError| e.to_string())?;
        let (labels, classes) = (self.labels.len(), self.net.classes());
        if labels != classes {
            return Err(format!("labels: expected {classes}, one a logit, got {labels}"));
        }
        let input = self.net.input();
        let [h, w] = self.preprocessing.crop;
        let got = [self.preprocessing.channels.count(), h, w];
        if <[usize; 3]>::from(input) != got {
            return Err(format!("preprocessing: expected images of {input}, as the net takes, got {got:?}"));
        }
        Ok(())
    }

    /// Writes the model: first to a temporary file beside `path`, then, synced, in its place.
    ///
    /// # Errors
    /// Parts that do not belong together, or what the system refused. `path` then holds what it held before.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let format = |problem: String| ModelError::Format { path: path.into(), problem };
        self.check().map_err(format)?;
        let json = |value: serde_json::Result<String>| value.map_err(|e| format(e.to_string()));
        let metadata = HashMap::from([
            (KEY_FORMAT.to_owned(), FORMAT.to_owned()),
            (KEY_NET.to_owned(), json(serde_json::to_string(&self.net))?),
            (KEY_LABELS.to_owned(), json(serde_json::to_string(&self.labels))?),
            (KEY_PREPROCESSING.to_owned(), json(serde_json::to_string(&self.preprocessing))?),
            (KEY_SHA256.to_owned(), self.weights.sha256()),
        ]);
        let bytes: Vec<_> =
            self.weights.iter().map(|(name, t)| (name, t.shape.clone(), to_bytes(&t.data))).collect();
        let views = bytes
            .iter()
            .map(|(name, shape, data)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| format(e.to_string()))?;
        let file = serialize(views, Some(metadata)).map_err(|e| format(e.to_string()))?;
        write_atomic(path, &file).map_err(|source| ModelError::Io { path: path.into(), source })
    }

    /// Reads a model and checks everything: format version, net, tensors, checksum, labels, preprocessing.
    ///
    /// # Errors
    /// What is wrong with the file; a truncated or altered one is always an error.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Self::from_bytes(&bytes).map_err(|problem| ModelError::Format { path: path.into(), problem })
    }

    /// Reads a model from the bytes of its file.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| format!("not a whole safetensors file: {e}"))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |key: &str| {
            metadata.get(key).ok_or_else(|| format!("not a dynet model: metadata {key} is missing"))
        };
        let format = field(KEY_FORMAT)?;
        if format != FORMAT {
            return Err(format!("format version: expected {FORMAT}, got {format}"));
        }
        fn parse<T: serde::de::DeserializeOwned>(key: &str, text: &str) -> Result<T, String> {
            serde_json::from_str(text).map_err(|e| format!("{key}: {e}"))
        }
        let model = Self {
            net: parse(KEY_NET, field(KEY_NET)?)?,
            weights: Weights::from_safetensors(bytes)?,
            labels: parse(KEY_LABELS, field(KEY_LABELS)?)?,
            preprocessing: parse(KEY_PREPROCESSING, field(KEY_PREPROCESSING)?)?,
        };
        model.check()?;
        let (expected, got) = (field(KEY_SHA256)?, model.weights.sha256());
        if *expected != got {
            return Err(format!("SHA-256 of the tensors: expected {expected}, got {got}"));
        }
        Ok(model)
    }
}

/// Writes a file so that a reader sees either the old or the whole new one: to a temporary file in the same
/// folder, synced, then renamed.
///
/// # Errors
/// What the system refused; `path` is then as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dynet-");
    // A temporary file is private; the finished one gets what the user's umask leaves of rw-rw-rw-.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocessing::{Channels, Interpolation};
    use crate::zoo::{ZooOptions, build};

    fn model() -> Model {
        let options = ZooOptions {
            width: 0.125,
            classes: 3,
            channels: 1,
            size: [28, 28],
            small_stem: true,
            ..Default::default()
        };
        let net = build("resnet18", &options).unwrap().to_dynamic(&Default::default()).unwrap();
        let weights = Weights::init(&net, 1);
        let preprocessing = Preprocessing {
            resize: None,
            crop: [28, 28],
            interpolation: Interpolation::Bilinear,
            channels: Channels::Gray,
            mean: vec![0.3],
            std: vec![0.2],
        };
        Model { net, weights, labels: vec!["a".into(), "b".into(), "c".into()], preprocessing }
    }

    #[test]
    fn a_model_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let model = model();
        model.write(&path).unwrap();
        assert_eq!(Model::read(&path).unwrap(), model);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn every_truncation_and_every_flipped_tensor_byte_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model().write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        for len in (0..bytes.len()).step_by(bytes.len() / 300) {
            assert!(Model::from_bytes(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
        let data = bytes.len() - 4000;
        for at in (data..bytes.len()).step_by(371) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Model::from_bytes(&bad).unwrap_err().contains("SHA-256"), "byte {at}");
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused_and_leave_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let good = model();
        good.write(&path).unwrap();
        let mut bad = good.clone();
        bad.labels.pop();
        assert!(bad.write(&path).unwrap_err().to_string().contains("labels: expected 3"));
        let mut bad = good.clone();
        bad.preprocessing.crop = [32, 32];
        assert!(bad.write(&path).unwrap_err().to_string().contains("1 x 28 x 28"));
        assert_eq!(Model::read(&path).unwrap(), good);
    }

    #[test]
    fn a_plain_state_dict_is_told_apart_from_a_model() {
        let data = to_bytes(&[1.0]);
        let view = TensorView::new(Dtype::F32, vec![1], &data).unwrap();
        let bytes = serialize([("x", view)], None).unwrap();
        assert!(Model::from_bytes(&bytes).unwrap_err().contains("not a dynet model"));
    }
}
