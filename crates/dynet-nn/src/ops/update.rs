//! The optimizer's updates: on Flex each is one pass over the memory, by all threads; elsewhere Burn's own operations do
//! them. Both ways give the same bits there.
//!
//! New values are in the memory of the old ones where nobody else holds it. Weights of dense layers need no pass of their
//! own: backward updates them while their gradients are in cache (`slots`).

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor, TensorData};
use dynet_kernels::backward::{self as kernels, AdamW, Sgd, Team};

use crate::ops::with_engine;

/// How a parameter is updated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateRule {
    /// With a velocity as its state; without momentum there is none.
    Sgd(Sgd),
    /// With the running means of the gradient and of its square as its state.
    AdamW(AdamW),
}

impl UpdateRule {
    /// Tensors of state.
    fn states(self) -> usize {
        match self {
            Self::Sgd(sgd) => usize::from(sgd.momentum != 0.0),
            Self::AdamW(_) => 2,
        }
    }

    fn kernel<'a>(
        self,
        weights: &'a mut [f32],
        state: impl Iterator<Item = &'a mut [f32]>,
    ) -> kernels::Update<'a> {
        let mut state = state;
        match (self, state.next(), state.next()) {
            (Self::AdamW(adamw), Some(mean), Some(square)) => {
                kernels::Update::adamw(&adamw, weights, [mean, square])
            }
            (Self::Sgd(sgd), velocity, _) => kernels::Update::sgd(&sgd, weights, velocity),
            _ => unreachable!("AdamW has two means"),
        }
    }

    fn with_burn(self, all: Vec<Tensor<1>>, grad: Tensor<1>) -> Vec<Tensor<1>> {
        let mut all = all.into_iter();
        let scaled = |grad: Tensor<1>, scale: f64| if scale == 1.0 { grad } else { grad.mul_scalar(scale) };
        match (self, all.next(), all.next(), all.next()) {
            (Self::Sgd(sgd), Some(weights), velocity, _) => {
                let grad = scaled(grad, sgd.scale);
                let grad = if sgd.decay == 0.0 { grad } else { grad + weights.clone().mul_scalar(sgd.decay) };
                let velocity = velocity.map(|v| v.mul_scalar(sgd.momentum) + grad.clone());
                let step = match &velocity {
                    Some(velocity) if sgd.nesterov => grad + velocity.clone().mul_scalar(sgd.momentum),
                    Some(velocity) => velocity.clone(),
                    None => grad,
                };
                [weights - step.mul_scalar(sgd.rate)].into_iter().chain(velocity).collect()
            }
            (Self::AdamW(adamw), Some(weights), Some(mean), Some(square)) => {
                let AdamW { rate, betas: [b1, b2], epsilon, decay, scale, steps } = adamw;
                let grad = scaled(grad, scale);
                let mean = mean.mul_scalar(b1) + grad.clone().mul_scalar(1.0 - b1);
                let square = square.mul_scalar(b2) + (grad.clone() * grad).mul_scalar(1.0 - b2);
                let steps = i32::try_from(steps).unwrap_or(i32::MAX);
                let root = square.clone().div_scalar(1.0 - b2.powi(steps)).sqrt().add_scalar(epsilon);
                let step = mean.clone().mul_scalar(rate / (1.0 - b1.powi(steps))) / root;
                vec![weights.mul_scalar(1.0 - rate * decay) - step, mean, square]
            }
            _ => unreachable!("an update has weights and its rule's state"),
        }
    }
}

/// The next update of one parameter: the rule, and flat tensors of state, none before the first update.
#[derive(Clone, Debug)]
pub struct ParamUpdate<T = Tensor<1>> {
    /// What is to be done.
    pub rule: UpdateRule,
    /// SGD's velocity; AdamW's means of the gradient and of its square.
    pub state: Vec<T>,
}

impl ParamUpdate {
    /// New values of flat `weights`, and the new state.
    ///
    /// # Panics
    /// Where the tensors differ in length.
    pub fn step(mut self, weights: Tensor<1>, grad: Tensor<1>) -> (Tensor<1>, Vec<Tensor<1>>) {
        self.state.resize_with(self.rule.states(), || weights.zeros_like());
        let all = [weights].into_iter().chain(self.state).collect();
        let kernel = |team: &mut Team, all: Vec<&mut [f32]>, grad: &[f32]| {
            let mut all = all.into_iter();
            if let Some(weights) = all.next() {
                self.rule.kernel(weights, all).step(team, grad);
            }
        };
        let mut all = in_place(all, grad, kernel, |all, grad| self.rule.with_burn(all, grad));
        (all.remove(0), all)
    }

    /// The same on Flex, for weights of `len` values; `None` where it has tensors of another backend, type or size.
    pub(super) fn on_flex(&self, len: usize) -> Option<ParamUpdate<FlexTensor>> {
        let own = |t: &Tensor<1>| (t.dtype() == DType::F32 && t.dims() == [len]).then(|| t.clone());
        let state = self.state.iter().map(|t| own(t)?.try_into_primitive::<Flex>().ok().map(whole));
        let mut state = state.collect::<Option<Vec<_>>>()?;
        state.resize_with(self.rule.states(), || {
            FlexTensor::from_data(TensorData::new(vec![0.0_f32; len], [len]))
        });
        Some(ParamUpdate { rule: self.rule, state })
    }
}

impl ParamUpdate<FlexTensor> {
    pub(super) fn into_burn(self) -> ParamUpdate {
        let state = self.state.into_iter().map(Tensor::from_primitive::<Flex>).collect();
        ParamUpdate { rule: self.rule, state }
    }

    /// For a kernel that makes the gradient of `weights`.
    pub(super) fn kernel<'a>(&'a mut self, weights: &'a mut FlexTensor) -> kernels::Update<'a> {
        self.rule.kernel(weights.storage_mut(), self.state.iter_mut().map(FlexTensor::storage_mut))
    }
}

/// `keep mean + (1 - keep) values`: a step of a running mean.
///
/// # Panics
/// Where the tensors differ in length.
pub fn average(mean: Tensor<1>, values: Tensor<1>, keep: f64) -> Tensor<1> {
    let kernel = |team: &mut Team, mean: Vec<&mut [f32]>, values: &[f32]| {
        mean.into_iter().for_each(|mean| kernels::average(team, mean, values, keep));
    };
    let burn = |mean: Vec<Tensor<1>>, values: Tensor<1>| {
        let values = values.mul_scalar(1.0 - keep);
        mean.into_iter().map(|mean| mean.mul_scalar(keep) + values.clone()).collect()
    };
    in_place(vec![mean], values, kernel, burn).remove(0)
}

/// The sum of the squares of all values.
pub fn square_sum(values: Tensor<1>) -> f64 {
    if let Ok(values) = values.clone().try_into_primitive::<Flex>() {
        let values = values.to_contiguous();
        let sum = |values| with_engine(|team, _| kernels::square_sum(team, values));
        if let Some(sum) = values.as_slice::<f32>().and_then(sum) {
            return sum;
        }
    }
    let sum: f32 = (values.clone() * values).sum().into_scalar();
    f64::from(sum)
}

/// Changes tensors in their own memory with a kernel where they are Flex's, of f32; else `burn` makes the new ones.
fn in_place(
    tensors: Vec<Tensor<1>>,
    grad: Tensor<1>,
    kernel: impl FnOnce(&mut Team, Vec<&mut [f32]>, &[f32]),
    burn: impl FnOnce(Vec<Tensor<1>>, Tensor<1>) -> Vec<Tensor<1>>,
) -> Vec<Tensor<1>> {
    let flex = |t: &Tensor<1>| t.dtype() == DType::F32 && t.clone().try_into_primitive::<Flex>().is_ok();
    if !(tensors.iter().all(flex) && flex(&grad)) {
        return burn(tensors, grad);
    }
    let primitive = |t: Tensor<1>| {
        t.try_into_primitive::<Flex>()
            .unwrap_or_else(|_| unreachable!("this was seen to be a tensor of Flex"))
    };
    let mut tensors: Vec<_> = tensors.into_iter().map(|t| whole(primitive(t))).collect();
    let grad = primitive(grad).to_contiguous();
    if let Some(grad) = grad.as_slice::<f32>() {
        with_engine(|team, _| kernel(team, tensors.iter_mut().map(|t| t.storage_mut()).collect(), grad));
    }
    tensors.into_iter().map(Tensor::from_primitive::<Flex>).collect()
}

/// Whether a tensor's storage is its values in order, and nothing else.
pub(super) fn is_whole(tensor: &FlexTensor) -> bool {
    let len = tensor.layout().num_elements();
    tensor.layout().contiguous_offsets() == Some((0, len)) && tensor.bytes().len() == 4 * len
}

/// The tensor, copied where it is not whole.
fn whole(tensor: FlexTensor) -> FlexTensor {
    if is_whole(&tensor) {
        return tensor;
    }
    let len = tensor.layout().num_elements();
    let values = tensor.to_contiguous().as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_default();
    FlexTensor::from_data(TensorData::new(values, [len]))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn burns_operations_give_the_bits_of_the_kernels() {
        let tensor = |seed: usize| {
            let values: Vec<f32> = (0..37).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 70.0).collect();
            Tensor::<1>::from_data(values.as_slice(), &Device::flex())
        };
        let sgd = Sgd { rate: 0.07, momentum: 0.9, nesterov: true, decay: 0.013, scale: 0.3 };
        let adamw =
            AdamW { rate: 0.07, betas: [0.9, 0.99], epsilon: 1e-3, decay: 0.013, scale: 0.3, steps: 3 };
        for rule in [
            UpdateRule::Sgd(sgd),
            UpdateRule::Sgd(Sgd { nesterov: false, decay: 0.0, scale: 1.0, ..sgd }),
            UpdateRule::Sgd(Sgd { momentum: 0.0, ..sgd }),
            UpdateRule::AdamW(adamw),
        ] {
            let state: Vec<_> = (2..2 + rule.states()).map(tensor).collect();
            let (weights, new) = ParamUpdate { rule, state: state.clone() }.step(tensor(0), tensor(1));
            let own = [weights].into_iter().chain(new);
            let burn = rule.with_burn([tensor(0)].into_iter().chain(state).collect(), tensor(1));
            assert_eq!(burn.len(), 1 + rule.states(), "{rule:?}");
            for (own, burn) in own.zip(burn) {
                assert_eq!(own.into_data(), burn.into_data(), "{rule:?}");
            }
        }
    }
}
