//! Everything that a run needs to go on as if it had never stopped, in one file.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use dynet_net::Weights;
use dynet_net::model::write_atomic;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::report::EpochReport;

const FORMAT: &str = "dynet-checkpoint-1";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Epochs that are done.
    pub epoch: usize,
    /// Batches of the running epoch that are done.
    pub batch: usize,
    /// Updates so far.
    pub step: usize,
    /// Sums over the running epoch.
    pub sums: Sums,
    /// Reports of the epochs that are done.
    pub history: Vec<EpochReport>,
    /// Best validation accuracy so far, and its epoch.
    pub best: Option<(f64, usize)>,
}

/// Sums over an epoch's images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub images: usize,
    pub correct: usize,
    /// Sum of the images' losses, as bits: text would round it.
    loss_bits: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, images: usize, correct: usize, mean_loss: f64) {
        self.images += images;
        self.correct += correct;
        self.loss_bits = (self.loss() + mean_loss * images as f64).to_bits();
    }

    pub(crate) fn loss(self) -> f64 {
        f64::from_bits(self.loss_bits)
    }

    pub(crate) fn mean_loss(self) -> f64 {
        self.loss() / self.images.max(1) as f64
    }

    pub(crate) fn accuracy(self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }
}

/// The state of a run.
#[derive(Debug, PartialEq)]
pub(crate) struct Checkpoint {
    pub position: Position,
    pub weights: Weights,
    /// Temperature of the softmax predictors.
    pub temperature: Option<f32>,
    /// The optimizer's state by slot and parameter.
    pub optimizer: BTreeMap<String, Vec<f32>>,
    /// Seconds of training so far, in all processes.
    pub train_seconds: f64,
}

impl Checkpoint {
    /// Writes the state beside its place, then renames it.
    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, tensor) in self.weights.iter() {
            tensors.push((format!("weights/{name}"), tensor.shape.clone(), bytes(&tensor.data)));
        }
        for (name, values) in &self.optimizer {
            tensors.push((format!("optimizer/{name}"), vec![values.len()], bytes(values)));
        }
        let broken = |e: &dyn std::fmt::Display| TrainError::checkpoint(path, e.to_string());
        let views = tensors.iter().map(|(name, shape, data)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data)?))
        });
        let views =
            views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>().map_err(|e| broken(&e))?;
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            // TOML and not JSON: the JSON reader's numbers are not always those that were written, to the last bit.
            ("position".to_owned(), toml::to_string(&self.position).map_err(|e| broken(&e))?),
            ("temperature".to_owned(), self.temperature.map_or(String::new(), |t| t.to_bits().to_string())),
            ("train_seconds".to_owned(), self.train_seconds.to_string()),
            ("sha256".to_owned(), digest(&tensors)),
        ]);
        let file = serialize(views, Some(metadata)).map_err(|e| broken(&e))?;
        write_atomic(path, &file).map_err(|source| TrainError::io(path, source))
    }

    /// Reads a state and checks it whole.
    pub(crate) fn read(path: &Path) -> Result<Self, TrainError> {
        let file = fs::read(path).map_err(|source| TrainError::io(path, source))?;
        Self::from_bytes(&file).map_err(|problem| TrainError::checkpoint(path, problem))
    }

    fn from_bytes(file: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(file).map_err(|e| format!("not a whole file: {e}"))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |key: &str| metadata.get(key).ok_or_else(|| format!("{key} is missing"));
        if field("format")? != FORMAT {
            return Err(format!("format: expected {FORMAT}, got {}", field("format")?));
        }
        let content = SafeTensors::deserialize(file).map_err(|e| e.to_string())?;
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = content
            .iter()
            .map(|(name, v)| (name.to_owned(), v.shape().to_vec(), v.data().to_vec()))
            .collect();
        tensors.sort();
        let (expected, got) = (field("sha256")?, digest(&tensors));
        if *expected != got {
            return Err(format!("SHA-256 of the tensors: expected {expected}, got {got}"));
        }
        let mut checkpoint = Self {
            position: toml::from_str(field("position")?).map_err(|e| format!("position: {e}"))?,
            weights: Weights::new(),
            temperature: match field("temperature")?.as_str() {
                "" => None,
                bits => Some(f32::from_bits(bits.parse().map_err(|e| format!("temperature: {e}"))?)),
            },
            optimizer: BTreeMap::new(),
            train_seconds: field("train_seconds")?.parse().map_err(|e| format!("train_seconds: {e}"))?,
        };
        for (name, shape, data) in tensors {
            let (words, _) = data.as_chunks::<4>();
            let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
            if let Some(name) = name.strip_prefix("weights/") {
                checkpoint.weights.insert(name, shape, values);
            } else if let Some(name) = name.strip_prefix("optimizer/") {
                checkpoint.optimizer.insert(name.into(), values);
            }
        }
        Ok(checkpoint)
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Over names, sizes and values, sorted by name.
fn digest(tensors: &[(String, Vec<usize>, Vec<u8>)]) -> String {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort();
    let mut hash = Sha256::new();
    for (name, shape, data) in sorted {
        hash.update(format!("{name} {shape:?} "));
        hash.update(data);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checkpoints of a folder, oldest first; names hold the step.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| TrainError::io(folder, source))? {
        let path = entry.map_err(|source| TrainError::io(folder, source))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("step-") && name.ends_with(".safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// File name of the checkpoint after `step` updates.
pub(crate) fn file_name(step: usize) -> String {
    format!("step-{step:09}.safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(epoch: usize) -> EpochReport {
        EpochReport {
            epoch,
            step: 3 * epoch,
            train_loss: epoch as f64 / 7.0,
            train_top1: 1.0 / (epoch as f64).sqrt(),
            val_loss: 1e-9 / epoch as f64,
            val_top1: epoch as f64 / 1200.0,
            val_top5: 1.0 - 1.0 / (3 * epoch) as f64,
            learning_rate: 0.1 * (epoch as f64).cos(),
            temperature: Some(30.0 / epoch as f32),
            best: epoch == 1,
        }
    }

    fn checkpoint() -> Checkpoint {
        let mut weights = Weights::new();
        weights.insert("a.weight", vec![2, 3], vec![0.1, -0.0, 3.5, f32::MIN_POSITIVE, 1e30, 7.0]);
        let mut position =
            Position { epoch: 2, batch: 7, step: 33, best: Some((0.5, 1)), ..Default::default() };
        // Thirds and sevenths take all digits of a number in print.
        position.history = (1..50).map(report).collect();
        position.sums.add(64, 31, 0.1);
        position.sums.add(64, 30, 0.7);
        Checkpoint {
            position,
            weights,
            temperature: Some(7.3),
            optimizer: BTreeMap::from([("velocity/a.weight".into(), vec![1.0; 6])]),
            train_seconds: 12.5,
        }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file_name(33));
        checkpoint().write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint());
        assert_eq!(list(folder.path()).unwrap(), [path]);
    }

    #[test]
    fn truncated_and_altered_checkpoints_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file_name(1));
        checkpoint().write(&path).unwrap();
        let file = fs::read(&path).unwrap();
        assert!((0..file.len()).all(|len| Checkpoint::from_bytes(&file[..len]).is_err()));
        let mut bad = file.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert!(Checkpoint::from_bytes(&bad).unwrap_err().contains("SHA-256"));
    }
}
