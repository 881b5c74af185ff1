//! Mixup and cutmix: an image and its neighbour in the batch become one, and so do their targets.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

use crate::augment::Augment;
use crate::batches::Target;
use crate::random::{uniform, up_to};

/// What becomes of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mixing {
    None,
    /// The share of the image itself, everywhere.
    Blend(f32),
    /// Rows and columns taken from the neighbour.
    Paste {
        rows: [usize; 2],
        columns: [usize; 2],
    },
}

/// Mixes each image with the next one of the batch (the last with the first), as both were before. Where
/// mixup and cutmix are both wanted, a coin decides for each image.
///
/// # Shapes
/// `images` is `[n, c, h, w]` = `shape`; `streams` and `targets` have `n` items.
///
/// # Source
/// Zhang et al., mixup, 2018, arXiv:1710.09412; Yun et al., CutMix, 2019, arXiv:1905.04899.
pub(crate) fn mix(
    images: &mut [f32],
    shape: [usize; 4],
    targets: &mut [Target],
    streams: &mut [ChaCha8Rng],
    augment: &Augment,
) {
    let [_, channels, height, width] = shape;
    let one = channels * height * width;
    if !augment.mixes() || targets.len() < 2 || one == 0 {
        return;
    }
    // The last image's neighbour is the first, which will have changed by then.
    let (first, first_class) = (images[..one].to_vec(), targets[0].a);
    for (i, rng) in streams.iter_mut().enumerate() {
        let (head, tail) = images.split_at_mut((i + 1) * one);
        let image = &mut head[i * one..];
        let (other, class) = match targets.get(i + 1) {
            Some(next) => (&tail[..one], next.a),
            None => (&first[..], first_class),
        };
        let share = apply(draw(rng, augment, [height, width]), image, other, [height, width]);
        targets[i] = Target { b: class, share_a: share, ..targets[i] };
    }
}

fn draw(rng: &mut ChaCha8Rng, augment: &Augment, [height, width]: [usize; 2]) -> Mixing {
    let coin = uniform(rng, 0.0, 1.0) < 0.5;
    let by_cutting = augment.cutmix > 0.0 && (augment.mixup == 0.0 || coin);
    let alpha = if by_cutting { augment.cutmix } else { augment.mixup };
    let Ok(beta) = Beta::new(alpha, alpha) else { return Mixing::None };
    let share = beta.sample(rng);
    if !by_cutting {
        return Mixing::Blend(share);
    }
    let cut = (1.0 - share).max(0.0).sqrt();
    let mut span = |side: usize| {
        let half = (side as f32 * cut / 2.0) as usize;
        let centre = up_to(rng, side - 1);
        [centre.saturating_sub(half), (centre + half).min(side)]
    };
    Mixing::Paste { rows: span(height), columns: span(width) }
}

/// Carries `mixing` out and gives the share of the image itself.
fn apply(mixing: Mixing, image: &mut [f32], other: &[f32], [height, width]: [usize; 2]) -> f32 {
    match mixing {
        Mixing::None => 1.0,
        Mixing::Blend(share) => {
            for (a, b) in image.iter_mut().zip(other) {
                *a = share * *a + (1.0 - share) * b;
            }
            share
        }
        Mixing::Paste { rows: [top, bottom], columns: [left, right] } => {
            for start in (0..image.len()).step_by(height * width) {
                for row in top..bottom {
                    let part = start + row * width + left..start + row * width + right;
                    image[part.clone()].copy_from_slice(&other[part]);
                }
            }
            1.0 - ((bottom - top) * (right - left)) as f32 / (height * width) as f32
        }
    }
}
