//! How long a training step takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Distribution, Tensor};
use dynet_kernels::backward::Sgd;
use dynet_net::Net;

use crate::device::{DeviceError, DeviceName};
use crate::net_module::NetModule;
use crate::ops::{ParamUpdate, UpdateRule};

const SGD: Sgd = Sgd { rate: 0.01, momentum: 0.9, nesterov: false, decay: 0.0, scale: 1.0 };

/// Times of the parts of each step.
#[derive(Clone, Debug, Default)]
pub struct StepTimes {
    /// Images and labels into tensors.
    pub data: Vec<Duration>,
    /// Forward pass and cross entropy.
    pub forward: Vec<Duration>,
    /// Gradients; on a CPU the updates of dense weights too.
    pub backward: Vec<Duration>,
    /// SGD with momentum, of what backward has not updated.
    pub optimizer: Vec<Duration>,
}

impl StepTimes {
    /// Medians in milliseconds: of whole steps, then of data, forward, backward and optimizer.
    pub fn medians_ms(&self) -> [f64; 5] {
        let parts = [&self.data, &self.forward, &self.backward, &self.optimizer];
        let whole: Vec<Duration> =
            (0..self.data.len()).map(|i| parts.iter().map(|part| part[i]).sum()).collect();
        [&whole, parts[0], parts[1], parts[2], parts[3]].map(|list| {
            let mut list = list.clone();
            list.sort();
            list.get(list.len() / 2).map_or(0.0, |middle| middle.as_secs_f64() * 1e3)
        })
    }
}

/// Times `steps` training steps on random images: forward, cross entropy, backward, SGD with momentum. Two steps before
/// them are not counted. On a CPU they run on the operations of this crate, with `burn` on Burn's.
///
/// # Errors
/// [`DeviceError`] where there is no such device, or it stops calculating.
///
/// # Panics
/// For a batch of no images.
pub fn time_steps(
    net: &Net,
    batch: usize,
    steps: usize,
    name: DeviceName,
    burn: bool,
) -> Result<StepTimes, DeviceError> {
    let device = name.open()?.autodiff();
    // Elsewhere than on a CPU operations only queue up until somebody waits.
    let elapsed = |since: Instant| match device.sync() {
        Ok(()) => Ok(since.elapsed()),
        Err(error) => Err(DeviceError::Refused { name, problem: error.to_string() }),
    };
    device.seed(0);
    let mut module = NetModule::init(net, 0, &device);
    let mut velocity = HashMap::new();
    let image = net.input();
    let pixels =
        Tensor::<4>::random([batch, image.c, image.h, image.w], Distribution::Normal(0.0, 1.0), &device);
    let pixels = pixels.into_data();
    let classes = net.classes();
    let mut labels = vec![0.0_f32; batch * classes];
    (0..batch).for_each(|i| labels[i * classes + i * 7 % classes] = 1.0);
    let mut times = StepTimes::default();
    for step in 0..steps + 2 {
        let start = Instant::now();
        let images = Tensor::<4>::from_data(pixels.clone(), &device);
        let wanted = Tensor::<1>::from_data(labels.as_slice(), &device).reshape([batch, classes]);
        let data = elapsed(start)?;
        let of =
            |id| ParamUpdate { rule: UpdateRule::Sgd(SGD), state: velocity.remove(&id).unwrap_or_default() };
        let back = |logits: Tensor<2>, module: &NetModule| {
            let loss = (log_softmax(logits, 1) * wanted).sum().neg() / batch as f64;
            let forward = elapsed(start)?;
            let gradients = GradientsParams::from_grads(loss.backward(), module);
            Ok::<_, DeviceError>((gradients, [forward, elapsed(start)?]))
        };
        let (forward, backward);
        if burn {
            let (gradients, times) = back(module.forward_taps(images, &[]).0, &module)?;
            [forward, backward] = times;
            velocity = module.update(gradients, of);
        } else {
            let (logits, step) = module.step(images, of);
            let (gradients, times) = back(logits, step.module())?;
            [forward, backward] = times;
            velocity = step.finish(gradients);
        }
        let optimizer = elapsed(start)?;
        if step >= 2 {
            times.data.push(data);
            times.forward.push(forward - data);
            times.backward.push(backward - forward);
            times.optimizer.push(optimizer - backward);
        }
    }
    Ok(times)
}
