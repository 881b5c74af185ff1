//! The optimizer's updates of one parameter: on Flex each is one pass over the memory, by all threads; elsewhere Burn's
//! own operations do them.
//!
//! New values are in the memory of the old ones where nobody else holds it. On Flex both ways give the same bits.

use burn::backend::Flex;
use burn::tensor::{DType, Tensor, TensorData};
use dynet_kernels::backward::{self as kernels, AdamW, Sgd, Team};

use crate::ops::with_engine;

/// One update by SGD: the new weights and velocity. Without a velocity it starts at zero; without momentum there is none.
///
/// # Panics
/// Where the tensors differ in length.
pub fn sgd_step(
    sgd: &Sgd,
    weights: Tensor<1>,
    velocity: Option<Tensor<1>>,
    grad: Tensor<1>,
) -> (Tensor<1>, Option<Tensor<1>>) {
    if sgd.momentum == 0.0 {
        let kernel =
            |team: &mut Team, [w]: [&mut [f32]; 1], g: &[f32]| kernels::sgd_step(team, sgd, w, None, g);
        let [weights] = in_place([weights], grad, kernel, |[weights], grad| {
            let grad = grad_of(sgd, &weights, grad);
            [weights - grad.mul_scalar(sgd.rate)]
        });
        return (weights, None);
    }
    let velocity = velocity.unwrap_or_else(|| weights.zeros_like());
    let kernel = |team: &mut Team, [w, v]: [&mut [f32]; 2], g: &[f32]| {
        kernels::sgd_step(team, sgd, w, Some(v), g);
    };
    let [weights, velocity] = in_place([weights, velocity], grad, kernel, |[weights, velocity], grad| {
        let grad = grad_of(sgd, &weights, grad);
        let velocity = velocity.mul_scalar(sgd.momentum) + grad.clone();
        let step = match sgd.nesterov {
            true => grad + velocity.clone().mul_scalar(sgd.momentum),
            false => velocity.clone(),
        };
        [weights - step.mul_scalar(sgd.rate), velocity]
    });
    (weights, Some(velocity))
}

/// The scaled gradient and the decay, on Burn's operations.
fn grad_of(sgd: &Sgd, weights: &Tensor<1>, grad: Tensor<1>) -> Tensor<1> {
    let grad = if sgd.scale == 1.0 { grad } else { grad.mul_scalar(sgd.scale) };
    if sgd.decay == 0.0 { grad } else { grad + weights.clone().mul_scalar(sgd.decay) }
}

/// One update by AdamW: the new weights, and the new running means of the gradient and of its square, which start at
/// zero.
///
/// # Panics
/// Where the tensors differ in length.
pub fn adamw_step(
    adamw: &AdamW,
    weights: Tensor<1>,
    moments: Option<[Tensor<1>; 2]>,
    grad: Tensor<1>,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let [mean, square] = moments.unwrap_or_else(|| [weights.zeros_like(), weights.zeros_like()]);
    let kernel = |team: &mut Team, [w, mean, square]: [&mut [f32]; 3], g: &[f32]| {
        kernels::adamw_step(team, adamw, w, [mean, square], g);
    };
    let [weights, mean, square] =
        in_place([weights, mean, square], grad, kernel, |[weights, mean, square], grad| {
            let AdamW { rate, betas: [b1, b2], epsilon, decay, scale, steps } = *adamw;
            let grad = grad.mul_scalar(scale);
            let mean = mean.mul_scalar(b1) + grad.clone().mul_scalar(1.0 - b1);
            let square = square.mul_scalar(b2) + (grad.clone() * grad).mul_scalar(1.0 - b2);
            let steps = i32::try_from(steps).unwrap_or(i32::MAX);
            let root = square.clone().div_scalar(1.0 - b2.powi(steps)).sqrt().add_scalar(epsilon);
            let step = mean.clone().mul_scalar(rate / (1.0 - b1.powi(steps))) / root;
            [weights.mul_scalar(1.0 - rate * decay) - step, mean, square]
        });
    (weights, [mean, square])
}

/// `keep mean + (1 - keep) values`: a step of a running mean.
///
/// # Panics
/// Where the tensors differ in length.
pub fn average(mean: Tensor<1>, values: Tensor<1>, keep: f64) -> Tensor<1> {
    let kernel = |team: &mut Team, [mean]: [&mut [f32]; 1], values: &[f32]| {
        kernels::average(team, mean, values, keep);
    };
    let [mean] = in_place([mean], values, kernel, |[mean], values| {
        [mean.mul_scalar(keep) + values.mul_scalar(1.0 - keep)]
    });
    mean
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

type Primitive = burn::backend::flex::FlexTensor;

/// Changes tensors in their own memory with a kernel where they are Flex's, of f32; else `burn` makes the new ones.
fn in_place<const N: usize>(
    tensors: [Tensor<1>; N],
    grad: Tensor<1>,
    kernel: impl FnOnce(&mut Team, [&mut [f32]; N], &[f32]),
    burn: impl FnOnce([Tensor<1>; N], Tensor<1>) -> [Tensor<1>; N],
) -> [Tensor<1>; N] {
    let flex = |t: &Tensor<1>| t.dtype() == DType::F32 && t.clone().try_into_primitive::<Flex>().is_ok();
    if !(tensors.iter().all(flex) && flex(&grad)) {
        return burn(tensors, grad);
    }
    let primitive = |t: Tensor<1>| {
        t.try_into_primitive::<Flex>()
            .unwrap_or_else(|_| unreachable!("this was seen to be a tensor of Flex"))
    };
    let mut tensors = tensors.map(|t| whole(primitive(t)));
    let grad = primitive(grad).to_contiguous();
    if let Some(grad) = grad.as_slice::<f32>() {
        with_engine(|team, _| kernel(team, tensors.each_mut().map(|t| t.storage_mut()), grad));
    }
    tensors.map(Tensor::from_primitive::<Flex>)
}

/// A tensor whose storage is its values in order, and nothing else.
fn whole(tensor: Primitive) -> Primitive {
    let len = tensor.layout().num_elements();
    if tensor.layout().contiguous_offsets() == Some((0, len)) && tensor.bytes().len() == 4 * len {
        return tensor;
    }
    let values = tensor.to_contiguous().as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_default();
    Primitive::from_data(TensorData::new(values, [len]))
}
