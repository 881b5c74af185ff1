//! A model in one file: net, weights, labels and preprocessing, as `.safetensors` with metadata.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::net::Net;
use crate::preprocessing::{Preprocessing, PreprocessingError};
use crate::weights::{Weights, WeightsError, to_bytes};

/// Version of the file format that this version of the crate writes and reads.
pub const FORMAT: &str = "1";

const KEY_FORMAT: &str = "dynet.format";
const KEY_NET: &str = "dynet.net";
const KEY_LABELS: &str = "dynet.labels";
const KEY_PREPROCESSING: &str = "dynet.preprocessing";
const KEY_SHA256: &str = "dynet.sha256";

/// A net with everything that is needed to classify an image.
///
/// In the file the metadata hold, under `dynet.*`: the format version, the net, the labels and the
/// preprocessing as JSON, and the SHA-256 of the tensors ([`Weights::sha256`]). The tensors are f32, sorted
/// by name. Equal models give equal bytes.
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
    /// The file is not a model, or it is damaged, or the model's parts do not belong together.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        source: ModelProblem,
    },
}

/// What is wrong with a model or with the bytes of its file.
#[derive(Debug, thiserror::Error)]
pub enum ModelProblem {
    /// Not in safetensors format, or cut off.
    #[error("not a whole safetensors file: {0}")]
    Format(String),
    /// A part of the metadata is not there, as in a file of plain weights.
    #[error("not a dynet model: metadata {key} is missing")]
    Missing {
        /// Key of the metadata.
        key: &'static str,
    },
    /// A part of the metadata cannot be understood.
    #[error("metadata {key}: {problem}")]
    Metadata {
        /// Key of the metadata.
        key: &'static str,
        /// What was expected and what was found.
        problem: String,
    },
    /// The tensors do not fit the net.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A field of the preprocessing is out of range.
    #[error(transparent)]
    Preprocessing(#[from] PreprocessingError),
    /// Two parts, each of them good, that do not belong together.
    #[error("{part}: expected {expected}, got {got}")]
    Mismatch {
        /// The part that does not fit the net or the tensors.
        part: &'static str,
        /// What the net or the file asks for.
        expected: String,
        /// What was found.
        got: String,
    },
}

/// The header of a safetensors file. Its maps are sorted, so that equal models give equal bytes.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

impl Model {
    /// Checks that net, weights, labels and preprocessing belong together.
    ///
    /// # Errors
    /// The first part that does not fit.
    pub fn check(&self) -> Result<(), ModelProblem> {
        let mismatch = |part, expected: String, got: String| {
            if expected == got { Ok(()) } else { Err(ModelProblem::Mismatch { part, expected, got }) }
        };
        self.weights.check(&self.net)?;
        self.preprocessing.check()?;
        let labels = |n: usize| format!("{n}, one a logit");
        mismatch("labels", labels(self.net.classes()), labels(self.labels.len()))?;
        let images = |[c, h, w]: [usize; 3]| format!("images of {c} x {h} x {w}");
        let [h, w] = self.preprocessing.crop;
        let got = [self.preprocessing.channels.count(), h, w];
        mismatch("preprocessing", images(self.net.input().into()), images(got))
    }

    /// Writes the model: first to a temporary file beside `path`, then, synced, in its place.
    ///
    /// # Errors
    /// Parts that do not belong together, or what the system refused. `path` then holds what it held before.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let header = self.check().and_then(|()| self.header());
        let header = header.map_err(|source| ModelError::Invalid { path: path.into(), source })?;
        let body = |file: &mut dyn Write| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            self.weights.iter().try_for_each(|(_, tensor)| file.write_all(&to_bytes(&tensor.data)))
        };
        replace(path, body).map_err(|source| ModelError::Io { path: path.into(), source })
    }

    /// The JSON in front of the tensors, padded with spaces to whole 8 bytes.
    fn header(&self) -> Result<Vec<u8>, ModelProblem> {
        fn json(key: &'static str, part: &impl Serialize) -> Result<(&'static str, String), ModelProblem> {
            match serde_json::to_string(part) {
                Ok(text) => Ok((key, text)),
                Err(e) => Err(ModelProblem::Metadata { key, problem: e.to_string() }),
            }
        }
        let metadata = BTreeMap::from([
            (KEY_FORMAT, FORMAT.to_owned()),
            json(KEY_NET, &self.net)?,
            json(KEY_LABELS, &self.labels)?,
            json(KEY_PREPROCESSING, &self.preprocessing)?,
            (KEY_SHA256, self.weights.sha256()),
        ]);
        let mut end = 0;
        let tensors = self.weights.iter().map(|(name, tensor)| {
            let start = end;
            end += 4 * tensor.data.len();
            let shape = tensor.shape.clone();
            (name, TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
        });
        let header = Header { metadata, tensors: tensors.collect() };
        let mut bytes = serde_json::to_vec(&header).map_err(|e| ModelProblem::Format(e.to_string()))?;
        bytes.resize(bytes.len().next_multiple_of(8), b' ');
        Ok(bytes)
    }

    /// Reads a model and checks everything: format version, net, tensors, checksum, labels, preprocessing.
    ///
    /// # Errors
    /// What is wrong with the file; a truncated or altered one is always an error.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        Self::from_bytes(&bytes).map_err(|source| ModelError::Invalid { path: path.into(), source })
    }

    /// Reads a model from the bytes of its file.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelProblem> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| ModelProblem::Format(e.to_string()))?;
        let metadata = header.metadata().as_ref();
        let field = |key| metadata.and_then(|m| m.get(key)).ok_or(ModelProblem::Missing { key });
        let format = field(KEY_FORMAT)?;
        if format != FORMAT {
            let problem = format!("expected version {FORMAT}, got {format}");
            return Err(ModelProblem::Metadata { key: KEY_FORMAT, problem });
        }
        fn parse<T: DeserializeOwned>(key: &'static str, text: &str) -> Result<T, ModelProblem> {
            serde_json::from_str(text).map_err(|e| ModelProblem::Metadata { key, problem: e.to_string() })
        }
        let model = Self {
            net: parse(KEY_NET, field(KEY_NET)?)?,
            weights: Weights::from_safetensors(bytes).map_err(ModelProblem::Format)?,
            labels: parse(KEY_LABELS, field(KEY_LABELS)?)?,
            preprocessing: parse(KEY_PREPROCESSING, field(KEY_PREPROCESSING)?)?,
        };
        model.check()?;
        let (expected, got) = (field(KEY_SHA256)?.clone(), model.weights.sha256());
        if expected != got {
            return Err(ModelProblem::Mismatch { part: "SHA-256 of the tensors", expected, got });
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
    replace(path, |file| file.write_all(bytes))
}

fn replace(path: &Path, body: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dynet-");
    // A temporary file is private; the finished one gets what the user's umask leaves of rw-rw-rw-.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = BufWriter::new(builder.tempfile_in(folder)?);
    body(&mut file)?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{TensorView, serialize};

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
        let first = fs::read(&path).unwrap();
        model.write(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "equal models give equal bytes");
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
            let problem = Model::from_bytes(&bad).unwrap_err().to_string();
            assert!(problem.contains("SHA-256"), "byte {at}: {problem}");
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
        let problem = Model::from_bytes(&bytes).unwrap_err();
        assert!(problem.to_string().contains("not a dynet model"));
    }
}
