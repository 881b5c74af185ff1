//! One pass of a batch: the loss of its logits, and backward.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use dynet_data::{Batch, Target};

/// What one pass gave.
pub(crate) struct Pass {
    /// Mean loss of the images.
    pub loss: f64,
    /// Images whose likeliest class is that of the target's larger share.
    pub correct: usize,
    /// Images.
    pub images: usize,
}

/// A batch on a device.
pub(crate) struct Labelled<'a> {
    batch: &'a Batch,
    smoothing: f64,
    /// `[n, c, h, w]`.
    pub images: Tensor<4>,
}

impl<'a> Labelled<'a> {
    pub(crate) fn new(batch: &'a Batch, smoothing: f64, device: &Device) -> Self {
        let images = TensorData::new(batch.images.clone(), batch.shape);
        Self { batch, smoothing, images: Tensor::from_data(images, device) }
    }
}

/// The gradients of a batch's mean loss divided by `passes`; none with a loss that is not finite.
pub(crate) fn pass(logits: Tensor<2>, of: &Labelled<'_>, passes: usize) -> (Pass, Option<Gradients>) {
    let [n, classes] = logits.dims();
    let targets = TensorData::new(soft_targets(&of.batch.targets, classes, of.smoothing), [n, classes]);
    let targets = Tensor::<2>::from_data(targets, &logits.device());
    let answers: Vec<f32> = logits.clone().inner().into_data().iter::<f32>().collect();
    let loss = (log_softmax(logits, 1) * targets).sum().neg() / n as f64;
    let value: f32 = loss.clone().into_scalar();
    let correct = correct(&answers, &of.batch.targets, classes);
    let pass = Pass { loss: f64::from(value), correct, images: n };
    let gradients = pass.loss.is_finite().then(|| (loss / passes as f64).backward());
    (pass, gradients)
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
