//! Batch normalisation as a factor and a shift of each channel, and both folded into kernels.

use dynet_net::{Net, NodeId, Op, Weights};

use crate::error::PlanError;

/// `y = factor * x + shift`, channel by channel.
#[derive(Debug)]
pub(crate) struct Affine {
    pub(crate) factor: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// The tensors of a node with the given suffix; they exist, since the weights were checked.
pub(crate) fn tensor<'a>(net: &Net, weights: &'a Weights, id: NodeId, suffix: &str) -> &'a [f32] {
    let name = format!("{}.{suffix}", net.node(id).name);
    weights.get(&name).map_or(&[], |t| &t.data)
}

/// A batch normalisation with its running statistics: `weight / sqrt(var + eps)` and `bias - mean * factor`,
/// computed in f64.
///
/// # Errors
/// A factor or shift that is not finite.
pub(crate) fn norm(net: &Net, weights: &Weights, id: NodeId) -> Result<Affine, PlanError> {
    let Op::BatchNorm { eps, .. } = net.node(id).op else {
        return Ok(Affine { factor: vec![], shift: vec![] });
    };
    let [weight, bias, mean, var] =
        ["weight", "bias", "running_mean", "running_var"].map(|s| tensor(net, weights, id, s));
    let mut affine = Affine { factor: Vec::new(), shift: Vec::new() };
    for c in 0..weight.len() {
        let factor = f64::from(weight[c]) / (f64::from(var[c]) + f64::from(eps)).sqrt();
        affine.factor.push(factor as f32);
        affine.shift.push((f64::from(bias[c]) - f64::from(mean[c]) * factor) as f32);
    }
    finite(net, id, &affine.factor)?;
    finite(net, id, &affine.shift)?;
    Ok(affine)
}

/// Multiplies the kernels `[experts][c_out][fan_in]` and the bias of a convolution with a factor for each output
/// channel and adds the shift to the bias: the normalisation behind it then does nothing.
pub(crate) fn fold(kernels: &mut [f32], fan_in: usize, bias: &mut [f32], affine: &Affine) {
    let c_out = bias.len();
    for (row, kernel) in kernels.chunks_exact_mut(fan_in).enumerate() {
        kernel.iter_mut().for_each(|w| *w *= affine.factor[row % c_out]);
    }
    for (c, b) in bias.iter_mut().enumerate() {
        *b = *b * affine.factor[c] + affine.shift[c];
    }
}

/// # Errors
/// The first value that is not finite.
pub(crate) fn finite(net: &Net, id: NodeId, values: &[f32]) -> Result<(), PlanError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => {
            Err(PlanError::NotFinite { node: net.node(id).name.clone(), index, value: values[index] })
        }
    }
}
