//! Options of the inference engine, and the nets and weights that it runs.

use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::{Args, ValueEnum};
use dynet_engine::{Isa, Options, Precision, Storage};
use dynet_net::{Net, Weights};
use dynet_train::{DeviceName, Runtime};

use crate::fault::{Blame, Fault};
use crate::net_args::{NetArgs, NetOrModel};

/// Forces an instruction set where `--isa` does not.
const ISA_VARIABLE: &str = "DYNET_ISA";

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum StorageArg {
    /// As trained.
    #[default]
    F32,
    /// The upper half of f32.
    Bf16,
    /// One scale for each output channel of each fixed kernel, and for each output of a predictor.
    Int8,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum PrecisionArg {
    /// f32.
    #[default]
    F32,
    /// Rounded to bfloat16, sums in f32; several times as fast on a CPU with AMX.
    Bf16,
}

/// Options of the inference engine.
#[derive(Args)]
pub(crate) struct EngineArgs {
    /// Threads; all of the machine's if not given.
    #[arg(long, value_name = "T", help_heading = "Engine")]
    threads: Option<usize>,
    /// Number format of the fixed kernels of dynamic convolutions and of their predictors.
    #[arg(long, value_enum, default_value = "f32", help_heading = "Engine")]
    experts: StorageArg,
    /// What dense convolutions multiply.
    #[arg(long, value_enum, default_value = "f32", help_heading = "Engine")]
    precision: PrecisionArg,
    /// Instruction set: avx512, avx2_fma, portable; the best of this CPU if neither this nor DYNET_ISA is given.
    #[arg(long, value_name = "NAME", help_heading = "Engine")]
    isa: Option<String>,
}

impl EngineArgs {
    /// Threads to run on.
    ///
    /// # Errors
    /// A number that no session takes.
    pub(crate) fn threads(&self) -> Result<usize, Fault> {
        let threads = self.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from).min(64));
        match threads {
            1..=64 => Ok(threads),
            _ => Err(Fault::Input(format!("--threads: expected 1 to 64, got {threads}"))),
        }
    }

    /// What plans are made with.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks.
    pub(crate) fn options(&self) -> Result<Options, Fault> {
        let isa = match &self.isa {
            Some(name) => Some(name.clone()),
            None => std::env::var(ISA_VARIABLE).ok().filter(|name| !name.is_empty()),
        };
        let isa = isa.map_or(Ok(Isa::best()), |name| name.parse()).input()?;
        let (experts, precision, threads) = (self.storage(), self.precision(), self.threads()?);
        Ok(Options { isa, experts, precision, threads, ..Options::default() })
    }

    /// Where and how a trained model runs.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks, a number of threads that no session takes, or any option for a device that the
    /// engine does not run on.
    pub(crate) fn runtime(&self, device: DeviceName) -> Result<Runtime, Fault> {
        let given = [
            (self.threads.is_some(), "--threads"),
            (self.experts != StorageArg::default(), "--experts"),
            (self.precision != PrecisionArg::default(), "--precision"),
            (self.isa.is_some(), "--isa"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, option)) if device != DeviceName::default() => Err(Fault::Input(format!(
                "{option}: expected --device cpu, which the engine runs on, got {device}"
            ))),
            _ => Ok(Runtime { device, engine: self.options()?, threads: Some(self.threads()?) }),
        }
    }

    fn precision(&self) -> Precision {
        match self.precision {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
        }
    }

    fn storage(&self) -> Storage {
        match self.experts {
            StorageArg::F32 => Storage::F32,
            StorageArg::Bf16 => Storage::Bf16,
            StorageArg::Int8 => Storage::Int8,
        }
    }
}

/// A net, and weights to run it with.
#[derive(Args)]
pub(crate) struct WeightArgs {
    /// Weights of the net: a plain PyTorch state dict as safetensors; seeded random ones if not given.
    #[arg(long, value_name = "F.safetensors")]
    weights: Option<PathBuf>,
}

impl WeightArgs {
    /// The net of a NET|MODEL argument for images of `[h, w]`, if a size is asked for, and its weights.
    ///
    /// # Errors
    /// A net or file that cannot be, or weights for a model file that has its own.
    pub(crate) fn load(
        &self,
        name: &str,
        options: &NetArgs,
        size: Option<[usize; 2]>,
    ) -> Result<(Net, Weights), Fault> {
        let (net, weights) = match options.net_or_model(name)? {
            NetOrModel::Model(model) if self.weights.is_some() => {
                return Err(Fault::Input(format!("--weights: {} has its own", model.net.name())));
            }
            NetOrModel::Model(model) => (model.net, Some(model.weights)),
            NetOrModel::Net(net) => (net, None),
        };
        let net = match size {
            Some([h, w]) if [net.input().h, net.input().w] != [h, w] => net.with_input_size(h, w).input()?,
            _ => net,
        };
        let weights = match (weights, &self.weights) {
            (Some(weights), _) => weights,
            (None, Some(path)) => Weights::read(path).input()?,
            (None, None) => Weights::init(&net, 0),
        };
        Ok((net, weights))
    }
}
