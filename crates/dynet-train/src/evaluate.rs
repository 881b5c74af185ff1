//! How well a classifier does on a data set, and what it says of single images.

use std::sync::Arc;

use dynet_data::{BatchOptions, Dataset};
use dynet_net::Preprocessing;
use serde::Serialize;

use crate::classifier::Classifier;
use crate::error::TrainError;

/// What a classifier makes of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Images looked at.
    pub images: usize,
    /// Images that could not be read.
    pub skipped: usize,
    /// Share of images whose likeliest class is right.
    pub top1: f64,
    /// Share of images whose class is among the five likeliest.
    pub top5: f64,
    /// Mean cross entropy.
    pub loss: f64,
    /// `confusion[truth][answer]`: images.
    pub confusion: Vec<Vec<u64>>,
}

/// One class of an [`Evaluation`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// Images of the class.
    pub images: u64,
    /// Share of the class's images that were recognised; `None` without images.
    pub recall: Option<f64>,
    /// Share of the answers "this class" that were right; `None` without such answers.
    pub precision: Option<f64>,
}

impl Evaluation {
    /// The scores of each class.
    pub fn classes(&self) -> Vec<ClassScore> {
        let share = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
        let score = |class: usize| {
            let hit = self.confusion[class][class];
            let images = self.confusion[class].iter().sum();
            let answers = self.confusion.iter().map(|row| row[class]).sum();
            ClassScore { images, recall: share(hit, images), precision: share(hit, answers) }
        };
        (0..self.confusion.len()).map(score).collect()
    }
}

/// How a data set is read for evaluation.
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    /// Images of one batch.
    pub batch: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Leave images that cannot be read out, instead of stopping.
    pub skip_bad: bool,
    /// The classifier's number of each class of the data; `None` where they are the same.
    pub labels: Option<Vec<usize>>,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { batch: 64, workers: 1, skip_bad: false, labels: None }
    }
}

/// Runs a classifier over a data set.
///
/// # Errors
/// An image that cannot be read, labels beyond the classifier's classes, or a classifier that fails.
pub fn evaluate(
    classifier: &mut dyn Classifier,
    dataset: &Arc<Dataset>,
    preprocessing: &Preprocessing,
    classes: usize,
    options: &EvaluateOptions,
) -> Result<Evaluation, TrainError> {
    let batches = dynet_data::batches(
        dataset,
        &BatchOptions {
            batch: options.batch,
            epoch: 0,
            seed: 0,
            shuffle: false,
            drop_last: false,
            start: 0,
            augment: None,
            preprocessing: preprocessing.clone(),
            workers: options.workers,
            ahead: 2,
            skip_bad: options.skip_bad,
        },
    );
    let mut confusion = vec![vec![0; classes]; classes];
    let (mut images, mut top1, mut top5, mut loss) = (0, 0usize, 0usize, 0.0);
    for batch in batches {
        let batch = batch?;
        let logits = classifier.logits(&batch.images, batch.shape)?;
        for (target, row) in batch.targets.iter().zip(logits.chunks_exact(classes)) {
            let truth = match &options.labels {
                Some(labels) => labels.get(target.a).copied(),
                None => Some(target.a),
            };
            let Some(truth) = truth.filter(|class| *class < classes) else {
                let text = format!("the data has class {}, the model {classes} classes", target.a);
                return Err(TrainError::Mismatch(text));
            };
            let best = ranked(row, 5);
            images += 1;
            top1 += usize::from(best[0] == truth);
            top5 += usize::from(best.contains(&truth));
            loss += cross_entropy(row, truth);
            confusion[truth][best[0]] += 1;
        }
    }
    if images == 0 {
        return Err(TrainError::Mismatch("evaluation: expected images, none could be read".into()));
    }
    let n = images as f64;
    Ok(Evaluation {
        images,
        skipped: dataset.len() - images,
        top1: top1 as f64 / n,
        top5: top5 as f64 / n,
        loss: loss / n,
        confusion,
    })
}

/// The likeliest classes of one image, best first, each with its probability.
pub fn top_k(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let best = ranked(logits, k);
    let highest = best.first().map_or(0.0, |i| f64::from(logits[*i]));
    let weight = |v: f32| (f64::from(v) - highest).exp();
    let sum: f64 = logits.iter().map(|v| weight(*v)).sum();
    best.into_iter().map(|i| (i, (weight(logits[i]) / sum) as f32)).collect()
}

/// Indices of the `k` largest values, largest first; of equal ones the first.
fn ranked(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
}

fn cross_entropy(logits: &[f32], class: usize) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|v| f64::from(v - highest).exp()).sum();
    sum.ln() - f64::from(logits[class] - highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_a_softmax_in_falling_order() {
        let got = top_k(&[1.0, 3.0, 2.0], 2);
        assert_eq!(got.iter().map(|p| p.0).collect::<Vec<_>>(), [1, 2]);
        // exp(3) / (exp(1) + exp(2) + exp(3)) = 0.66524
        assert!((got[0].1 - 0.665_240_96).abs() < 1e-6);
        assert!((cross_entropy(&[1.0, 3.0, 2.0], 1) + 0.665_240_96f64.ln()).abs() < 1e-6);
        assert!(top_k(&[1e30, -1e30], 5).iter().all(|p| p.1.is_finite()));
    }

    #[test]
    fn scores_of_a_class_come_from_its_row_and_its_column() {
        let evaluation = Evaluation {
            images: 10,
            skipped: 0,
            top1: 0.7,
            top5: 1.0,
            loss: 0.0,
            confusion: vec![vec![3, 1, 0], vec![2, 4, 0], vec![0, 0, 0]],
        };
        let [a, b, c] = evaluation.classes().try_into().unwrap();
        assert_eq!((a.recall, a.precision), (Some(0.75), Some(0.6)));
        assert_eq!((b.images, b.precision), (6, Some(0.8)));
        assert_eq!((c.recall, c.precision), (None, None));
    }
}
