//! Training on CPUs: a whole net as one operation of Burn's, with its own forward and backward.
//!
//! On Flex with autodiff, `NetModule::forward` hands images and parameters to [`forward`]. The net runs there on the
//! kernels of `dynet-kernels`, channels last from end to end; only images, logits and gradients of parameters have
//! Burn's layout. To Burn the pass is one node of the graph (`autodiff`), so that losses, optimizers and checkpoints see
//! an ordinary module.
//!
//! - `graph`: the net as steps; activations join the norm or sum before them.
//! - `forward`, `backward`: the steps on a batch; each dynamic convolution is mixed or fused, whichever costs less.
//! - `arena`: memory of maps, used again from step to step.
//! - `autodiff`: the node, and one small node for each parameter.
//! - `update`: the optimizer's updates, in the backward pass or each in a pass of its own.
//! - `slots`: parameters that a module lends for a step, so that backward can update them where they are.

mod arena;
mod autodiff;
mod backward;
mod forward;
mod graph;
mod slots;
mod update;

use std::sync::{Mutex, MutexGuard, PoisonError};

use dynet_kernels::Isa;
use dynet_kernels::backward::Team;

use self::arena::Arena;
pub(crate) use self::autodiff::{forward, tracked};
pub(crate) use self::graph::Graph;
pub(crate) use self::slots::Slots;
pub use self::update::{ParamUpdate, UpdateRule, average, square_sum};

/// The threads and the memory of all CPU operations.
#[derive(Default)]
struct Engine {
    team: Option<Team>,
    arena: Arena,
    threads: usize,
}

static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);

/// Threads that the CPU operations use; results are the same bits for any number. Without this call it is one for each
/// core.
pub fn set_threads(threads: usize) {
    let mut engine = lock();
    let engine = engine.get_or_insert_default();
    engine.threads = threads.max(1);
    engine.team = None;
}

fn lock() -> MutexGuard<'static, Option<Engine>> {
    // A job that panicked leaves threads and memory usable.
    ENGINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job with the threads and the memory; `None` where the system gives no threads.
fn with_engine<R>(job: impl FnOnce(&mut Team, &mut Arena) -> R) -> Option<R> {
    let mut engine = lock();
    let engine = engine.get_or_insert_default();
    if engine.team.is_none() {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if engine.threads == 0 { cores() } else { engine.threads };
        engine.team = Team::new(Isa::best(), threads).or_else(|_| Team::new(Isa::best(), 1)).ok();
    }
    let Engine { team, arena, .. } = engine;
    team.as_mut().map(|team| job(team, arena))
}
