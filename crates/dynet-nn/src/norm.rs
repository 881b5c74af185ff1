//! Batch normalisation with PyTorch's running statistics.

use burn::module::{Flag, Module, Param, RunningState};
use burn::tensor::Tensor;
use burn::tensor::module::{batch_norm, batch_norm_train};

/// Batch normalisation: `(x - mean) / sqrt(var + eps) * weight + bias`, channel by channel.
///
/// Training normalises by the batch's biased variance, and moves the running statistics towards the batch's mean
/// and *unbiased* variance, as PyTorch does; Burn's own layer moves it towards the biased one, which for small
/// batches of small maps is another number.
#[derive(Module, Debug)]
pub(crate) struct BatchNorm2d {
    /// Scale, `[c]`.
    weight: Param<Tensor<1>>,
    /// Shift, `[c]`.
    bias: Param<Tensor<1>>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
    /// Burn's switch of a frozen layer, which uses its running statistics in training too.
    training: Param<Flag>,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    momentum: f64,
}

impl BatchNorm2d {
    /// A layer with given scale, shift, running mean and running variance, each `[c]`.
    pub(crate) fn from_tensors(
        [weight, bias, running_mean, running_var]: [Tensor<1>; 4],
        eps: f32,
        momentum: f32,
    ) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
            running_mean: RunningState::new(running_mean),
            running_var: RunningState::new(running_var),
            training: Param::from_bool(true),
            eps: exact_decimal(eps),
            momentum: exact_decimal(momentum),
        }
    }

    /// Normalises; on an autodiff device by the batch's statistics, which enter the running ones.
    ///
    /// Where a channel has a single value, which has no variance, the output is the shift and the running
    /// variance stays as it is.
    ///
    /// # Shapes
    /// `[n, c, h, w]` to the same.
    ///
    /// # Panics
    /// Where the images have another number of channels than the layer.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        if !(images.device().is_autodiff() && self.training.is_enabled()) {
            let device = images.device();
            let [mean, var] = [&self.running_mean, &self.running_var].map(|s| s.value().to_device(&device));
            return batch_norm(images, self.weight.val(), self.bias.val(), mean, var, self.eps);
        }
        let [n, _, h, w] = images.dims();
        let batch = batch_norm_train(images, self.weight.val(), self.bias.val(), self.eps);
        self.absorb(batch.mean, batch.variance, n * h * w);
        batch.output
    }

    /// Whether it uses the batch's statistics on an autodiff device, and does not stand still as a frozen layer.
    pub(crate) fn is_training(&self) -> bool {
        self.training.is_enabled()
    }

    /// Takes mean and biased variance of a batch of `count` values a channel into the running statistics.
    pub(crate) fn absorb(&self, mean: Tensor<1>, variance: Tensor<1>, count: usize) {
        self.track(&self.running_mean, mean);
        if count > 1 {
            let count = count as f64;
            self.track(&self.running_var, variance * (count / (count - 1.0)));
        }
    }

    /// Moves a running statistic towards that of a batch.
    fn track(&self, state: &RunningState<Tensor<1>>, batch: Tensor<1>) {
        let batch = batch.detach();
        let old = state.value_sync().to_device(&batch.device());
        state.update((old * (1.0 - self.momentum) + batch * self.momentum).detach());
        // Without this a reader would see the value before this update.
        state.value_sync();
    }
}

/// The double that prints like this float: 1e-5 and not 9.999999747378752e-6, since PyTorch calculates with the
/// double of the decimal.
fn exact_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
