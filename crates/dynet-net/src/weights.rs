//! The tensors of a net: initial values, checks, and state dicts in safetensors files.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::net::Net;
use crate::params::{ParamKind, ParamSpec};

/// One tensor of f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightTensor {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Vec<f32>,
}

/// The tensors of a net by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, WeightTensor>,
}

/// Everything that is wrong with a set of tensors.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not in safetensors format, or cut off.
    #[error("{path}: not a whole safetensors file: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        problem: String,
    },
    /// Tensors that do not fit the net, one line each.
    #[error("the weights do not fit net {net}:\n  {}", problems.join("\n  "))]
    Misfit {
        /// Name of the net.
        net: String,
        /// One line for each missing, extra or misshapen tensor and each with a value that is not finite.
        problems: Vec<String>,
    },
}

impl Weights {
    /// No tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Seeded initial values.
    ///
    /// Every expert of a dynamic convolution is drawn on its own, uniform with variance `2 / fan_in` (He et
    /// al., 2015), the fan-in being that of one expert. Fully connected layers are uniform within `1 /
    /// sqrt(fan_in)`, as PyTorch has them. Biases start at zero, norms as the identity. The stream of a
    /// tensor depends on the seed and on its name alone, so a net and its twin share what they have in
    /// common.
    pub fn init(net: &Net, seed: u64) -> Self {
        let mut weights = Self::new();
        for spec in net.params() {
            let fan_in = spec.fan_in.max(1) as f32;
            let data = match spec.kind {
                ParamKind::ConvWeight => uniform(&spec, seed, (6.0 / fan_in).sqrt()),
                ParamKind::LinearWeight | ParamKind::PredictorWeight => {
                    uniform(&spec, seed, 1.0 / fan_in.sqrt())
                }
                ParamKind::Bias | ParamKind::RunningMean => vec![0.0; spec.len()],
                ParamKind::NormWeight | ParamKind::RunningVar => vec![1.0; spec.len()],
            };
            weights.insert(spec.name, spec.shape, data);
        }
        weights
    }

    /// Adds or replaces a tensor.
    ///
    /// # Panics
    /// If the shape does not have as many values as `data`.
    pub fn insert(&mut self, name: impl Into<String>, shape: Vec<usize>, data: Vec<f32>) {
        let len: usize = shape.iter().product();
        assert_eq!(len, data.len(), "a tensor of shape {shape:?} has {len} values");
        self.tensors.insert(name.into(), WeightTensor { shape, data });
    }

    /// One tensor.
    pub fn get(&self, name: &str) -> Option<&WeightTensor> {
        self.tensors.get(name)
    }

    /// All tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &WeightTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Checks that these are exactly the tensors of a net, all values finite, no variance negative.
    ///
    /// # Errors
    /// One error that lists all that is missing, extra, misshapen or not finite.
    pub fn check(&self, net: &Net) -> Result<(), WeightsError> {
        let specs = net.params();
        let mut problems = Vec::new();
        for spec in &specs {
            match self.tensors.get(&spec.name) {
                None => problems.push(format!("{}: missing, expected shape {:?}", spec.name, spec.shape)),
                Some(t) if t.shape != spec.shape => {
                    problems
                        .push(format!("{}: expected shape {:?}, got {:?}", spec.name, spec.shape, t.shape));
                }
                Some(t) => {
                    let is_variance = spec.kind == ParamKind::RunningVar;
                    let is_bad = |v: &f32| !v.is_finite() || (is_variance && *v < 0.0);
                    if let Some(at) = t.data.iter().position(is_bad) {
                        let (name, value) = (&spec.name, t.data[at]);
                        let expected = if is_variance { "finite and not negative" } else { "finite" };
                        problems.push(format!("{name}: value {at} is {value}, expected {expected}"));
                    }
                }
            }
        }
        let known: HashSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        let extra = self.tensors.keys().filter(|name| !known.contains(name.as_str()));
        problems.extend(extra.map(|name| format!("{name}: extra, not a tensor of this net")));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(WeightsError::Misfit { net: net.name().into(), problems })
        }
    }

    /// Reads a state dict from a safetensors file, as PyTorch users save it. Batch counters
    /// (`num_batches_tracked`) are left out; f16, bf16 and f64 are converted.
    ///
    /// # Errors
    /// A file that cannot be read or is not whole, or a tensor of another type.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = fs::read(path).map_err(|source| WeightsError::Io { path: path.into(), source })?;
        Self::from_safetensors(&bytes).map_err(|problem| WeightsError::Format { path: path.into(), problem })
    }

    pub(crate) fn from_safetensors(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let mut weights = Self::new();
        for (name, view) in file.iter() {
            if name.ends_with("num_batches_tracked") {
                continue;
            }
            let data = to_f32(view.dtype(), view.data())
                .ok_or_else(|| format!("{name}: expected f32, f16, bf16 or f64, got {:?}", view.dtype()))?;
            weights.insert(name, view.shape().to_vec(), data);
        }
        Ok(weights)
    }

    /// SHA-256 over the name, the sizes and the values of every tensor, sorted by name, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in &self.tensors {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update((tensor.shape.len() as u64).to_le_bytes());
            for size in &tensor.shape {
                hash.update((*size as u64).to_le_bytes());
            }
            hash.update(to_bytes(&tensor.data));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Little-endian bytes of f32 values.
pub(crate) fn to_bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    fn convert<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect()
    }
    Some(match dtype {
        Dtype::F32 => convert(bytes, f32::from_le_bytes),
        Dtype::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => convert(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    })
}

fn uniform(spec: &ParamSpec, seed: u64, bound: f32) -> Vec<f32> {
    let mut key = [0; 32];
    key.copy_from_slice(&Sha256::digest([&seed.to_le_bytes(), spec.name.as_bytes()].concat()));
    let mut rng = ChaCha8Rng::from_seed(key);
    // 24 random bits fill the significand: values in [-1, 1) in steps of 2^-23.
    let mut unit = || (rng.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
    (0..spec.len()).map(|_| unit() * bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{ZooOptions, build};

    fn net(dynamic: bool) -> Net {
        let net = build("resnet18", &ZooOptions { width: 0.25, ..Default::default() }).unwrap();
        if dynamic { net.to_dynamic(&Default::default()).unwrap() } else { net }
    }

    #[test]
    fn every_expert_has_its_own_values_with_the_variance_of_its_own_fan_in() {
        let net = net(true);
        let weights = Weights::init(&net, 7);
        for spec in net.params().iter().filter(|s| s.shape.len() == 5) {
            let experts: Vec<&[f32]> =
                weights.get(&spec.name).unwrap().data.chunks(spec.len() / spec.shape[0]).collect();
            for (i, a) in experts.iter().enumerate() {
                let variance = a.iter().map(|v| (v * v) as f64).sum::<f64>() / a.len() as f64;
                let want = 2.0 / spec.fan_in as f64;
                assert!((variance / want - 1.0).abs() < 0.2, "{}: {variance} for {want}", spec.name);
                assert!(experts[..i].iter().all(|b| a != b), "{}: two equal experts", spec.name);
            }
        }
    }

    #[test]
    fn a_twin_starts_from_the_same_values_where_shapes_agree() {
        let (dynamic, twin) = (net(true), net(false));
        let (a, b) = (Weights::init(&dynamic, 3), Weights::init(&twin, 3));
        assert_eq!(a.get("conv1.weight"), b.get("conv1.weight"));
        assert_ne!(a.get("conv1.weight"), Weights::init(&twin, 4).get("conv1.weight"));
        assert!(b.get("fc.bias").unwrap().data.iter().all(|v| *v == 0.0));
    }

    #[test]
    fn one_error_lists_all_misfits() {
        let net = net(false);
        let mut weights = Weights::init(&net, 0);
        weights.tensors.remove("fc.bias");
        weights.insert("bn1.weight", vec![3], vec![0.0; 3]);
        weights.insert("bn1.bias", vec![16], vec![f32::NAN; 16]);
        weights.insert("bn1.running_var", vec![16], vec![-1.0; 16]);
        weights.insert("stray", vec![1], vec![0.0]);
        let text = weights.check(&net).unwrap_err().to_string();
        for part in [
            "fc.bias: missing, expected shape [1000]",
            "bn1.weight: expected shape [16], got [3]",
            "bn1.bias: value 0 is NaN",
            "bn1.running_var: value 0 is -1",
            "stray: extra",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn a_state_dict_of_pytorch_is_read_in_any_of_its_types() {
        use safetensors::tensor::{TensorView, serialize};
        let pair = [1.5f32, -2.0];
        let bytes: [(&str, Dtype, Vec<u8>); 5] = [
            ("a", Dtype::F32, to_bytes(&pair)),
            ("b", Dtype::F16, pair.map(|v| half::f16::from_f32(v).to_le_bytes()).concat()),
            ("c", Dtype::BF16, pair.map(|v| half::bf16::from_f32(v).to_le_bytes()).concat()),
            ("d", Dtype::F64, pair.map(|v| f64::from(v).to_le_bytes()).concat()),
            ("bn1.num_batches_tracked", Dtype::I64, [7i64, 0].map(i64::to_le_bytes).concat()),
        ];
        let view = |t, data| TensorView::new(t, vec![2], data).unwrap();
        let whole = serialize(bytes.iter().map(|(name, t, data)| (*name, view(*t, data))), None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        fs::write(&path, &whole).unwrap();
        let weights = Weights::read(&path).unwrap();
        assert_eq!(weights.len(), 4, "the batch counter is left out");
        assert!(weights.iter().all(|(_, t)| t.data == pair && t.shape == [2]));
        for len in 0..whole.len() {
            assert!(Weights::from_safetensors(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
        }
        let integers = serialize([("n", view(Dtype::I64, &bytes[4].2))], None).unwrap();
        let problem = Weights::from_safetensors(&integers).unwrap_err();
        assert!(problem.contains("n: expected f32, f16, bf16 or f64, got I64"), "{problem}");
    }
}
