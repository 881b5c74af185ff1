//! The update of SGD with momentum in one pass over the memory.

use burn::backend::Flex;
use burn::tensor::{Tensor, TensorData};
use dynet_kernels::backward as kernels;

use crate::ops::with_engine;

/// `v = momentum v + (g + decay w)`, then `w -= rate v`: one step of SGD, as PyTorch does it. Returns the new weights and
/// velocity, in the memory of the old ones where nobody else holds it.
///
/// Without a velocity it starts at the gradient. Rates are learning rate, momentum and weight decay. On Flex this is one
/// pass over the memory; elsewhere Burn's own operations do it.
///
/// # Panics
/// Where the tensors differ in length.
pub fn momentum_step(
    weights: Tensor<1>,
    velocity: Option<Tensor<1>>,
    grad: Tensor<1>,
    rates: [f64; 3],
) -> [Tensor<1>; 2] {
    let velocity = velocity.unwrap_or_else(|| grad.zeros_like());
    let flex = |t: &Tensor<1>| t.clone().try_into_primitive::<Flex>().is_ok();
    if !(flex(&weights) && flex(&velocity) && flex(&grad)) {
        return with_burn(weights, velocity, grad, rates);
    }
    let all = [weights, velocity, grad].map(|t| t.try_into_primitive::<Flex>());
    let [Ok(weights), Ok(velocity), Ok(grad)] = all else {
        unreachable!("all three were seen to be tensors of Flex");
    };
    let [mut weights, mut velocity] = [weights, velocity].map(whole);
    let grad = grad.to_contiguous();
    let rates = rates.map(|r| r as f32);
    if let Some(grad) = grad.as_slice::<f32>() {
        with_engine(|team, _| {
            kernels::momentum_step(team, weights.storage_mut(), velocity.storage_mut(), grad, rates);
        });
    }
    [weights, velocity].map(Tensor::from_primitive::<Flex>)
}

type Primitive = burn::backend::flex::FlexTensor;

/// A tensor whose storage is its values in order, and nothing else.
fn whole(tensor: Primitive) -> Primitive {
    let len = tensor.layout().num_elements();
    if tensor.layout().contiguous_offsets() == Some((0, len)) && tensor.bytes().len() == 4 * len {
        return tensor;
    }
    let values = tensor.to_contiguous().as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_default();
    Primitive::from_data(TensorData::new(values, [len]))
}

fn with_burn(
    weights: Tensor<1>,
    velocity: Tensor<1>,
    grad: Tensor<1>,
    [rate, momentum, decay]: [f64; 3],
) -> [Tensor<1>; 2] {
    let grad = grad + weights.clone().mul_scalar(decay);
    let velocity = velocity.mul_scalar(momentum) + grad;
    [weights - velocity.clone().mul_scalar(rate), velocity]
}
