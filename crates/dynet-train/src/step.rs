//! One update: forward, loss, backward, over as many passes as are averaged.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use dynet_data::{Batch, Target};
use dynet_nn::{NetModule, Updates};

/// What one forward pass gave.
pub(crate) struct Pass {
    /// Mean loss of the images.
    pub loss: f64,
    /// Images whose likeliest class is that of the target's larger share.
    pub correct: usize,
    /// Images.
    pub images: usize,
}

/// Where gradients go.
pub(crate) struct Gradients<'a> {
    pub sum: &'a mut GradientsAccumulator<NetModule>,
    /// Of a step of one pass: the updates that backward makes at once where it can; the sum gets the other gradients.
    pub updates: Option<&'a Updates>,
}

/// Adds a batch's gradients, of the loss divided by `passes`, to a sum. With a loss that is not finite nothing is added.
pub(crate) fn accumulate(
    module: &NetModule,
    batch: &Batch,
    smoothing: f64,
    passes: usize,
    onto: Gradients<'_>,
    device: &Device,
) -> Pass {
    let images = Tensor::<4>::from_data(TensorData::new(batch.images.clone(), batch.shape), device);
    let logits = match onto.updates {
        Some(updates) => module.forward_updating(images, updates),
        None => module.forward(images),
    };
    let [n, classes] = logits.dims();
    let targets = TensorData::new(soft_targets(&batch.targets, classes, smoothing), [n, classes]);
    let targets = Tensor::<2>::from_data(targets, device);
    let answers: Vec<f32> = logits.clone().inner().into_data().iter::<f32>().collect();
    let loss = (log_softmax(logits, 1) * targets).sum().neg() / n as f64;
    let value: f32 = loss.clone().into_scalar();
    let pass =
        Pass { loss: f64::from(value), correct: correct(&answers, &batch.targets, classes), images: n };
    if pass.loss.is_finite() {
        let grads = (loss / passes as f64).backward();
        onto.sum.accumulate(module, GradientsParams::from_grads(grads, module));
    }
    pass
}

/// Probabilities that the net is to give, `[n, classes]`: shares of mixed images, then smoothing, which spreads
/// `smoothing` evenly over all classes.
fn soft_targets(targets: &[Target], classes: usize, smoothing: f64) -> Vec<f32> {
    let even = (smoothing / classes as f64) as f32;
    let keep = (1.0 - smoothing) as f32;
    let mut out = vec![even; targets.len() * classes];
    for (row, target) in out.chunks_exact_mut(classes).zip(targets) {
        row[target.a] += keep * target.share_a;
        row[target.b] += keep * (1.0 - target.share_a);
    }
    out
}

fn correct(logits: &[f32], targets: &[Target], classes: usize) -> usize {
    let hit = |(row, target): (&[f32], &Target)| {
        let wanted = if target.share_a >= 0.5 { target.a } else { target.b };
        row.iter().enumerate().all(|(i, v)| i == wanted || *v < row[wanted])
    };
    logits.chunks_exact(classes).zip(targets).filter(|pair| hit(*pair)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_share_and_smooth() {
        let targets = [Target { a: 0, b: 2, share_a: 0.75 }, Target { a: 1, b: 1, share_a: 1.0 }];
        let got = soft_targets(&targets, 3, 0.3);
        let want = [0.1 + 0.7 * 0.75, 0.1, 0.1 + 0.7 * 0.25, 0.1, 0.8, 0.1];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w as f32).abs() < 1e-6), "{got:?}");
    }

    #[test]
    fn an_answer_counts_only_when_it_is_the_single_largest() {
        let plain = |a| Target { a, b: a, share_a: 1.0 };
        assert_eq!(correct(&[0.0, 1.0, 1.0, 0.0], &[plain(1), plain(0)], 2), 2);
        assert_eq!(correct(&[1.0, 1.0, f32::NAN, 0.0], &[plain(1), plain(1)], 2), 0);
    }
}
