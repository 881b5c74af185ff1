//! The optimizer's update in one pass over the weights.

use crate::backward::team::{Raw, Team};
use crate::vector::{Job, Vector};

/// Values of a part of the job.
const CHUNK: usize = 1 << 15;

/// `v = momentum v + (g + decay w)`, `w -= rate v`, as PyTorch does it, in place.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn momentum_step(
    team: &mut Team,
    weights: &mut [f32],
    velocity: &mut [f32],
    grad: &[f32],
    [rate, momentum, decay]: [f32; 3],
) {
    let n = weights.len();
    assert!(velocity.len() == n && grad.len() == n, "{n} weights");
    let isa = team.isa;
    let velocity = Raw::of(velocity);
    team.chunks(weights, CHUNK, |part, weights| {
        let start = part * CHUNK;
        // SAFETY: as the weights' chunks, those of the velocity do not overlap.
        let velocity = unsafe { velocity.slice(start, weights.len()) };
        isa.run(Momentum {
            grad: &grad[start..][..weights.len()],
            weights,
            velocity,
            rates: [rate, momentum, decay],
        });
    });
}

struct Momentum<'a> {
    weights: &'a mut [f32],
    velocity: &'a mut [f32],
    grad: &'a [f32],
    rates: [f32; 3],
}

impl Job for Momentum<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let [rate, momentum, decay] = self.rates.map(|r| v.splat(r));
        let back = v.mul(rate, v.splat(-1.0));
        let n = self.weights.len();
        for i in (0..n).step_by(V::LANES) {
            let lanes = (n - i).min(V::LANES);
            // SAFETY: all three have `n` values.
            unsafe {
                let (w, u) = (self.weights.as_mut_ptr().add(i), self.velocity.as_mut_ptr().add(i));
                let weight = v.load_some(w, lanes);
                let g = v.fma(decay, weight, v.load_some(self.grad.as_ptr().add(i), lanes));
                let speed = v.fma(momentum, v.load_some(u, lanes), g);
                v.store_some(u, speed, lanes);
                v.store_some(w, v.fma(back, speed, weight), lanes);
            }
        }
    }
}
