//! One pass of some images through a plan: image by image up to its cut, from there all together.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dynet_kernels::{Grid, PerThread, Pool, SharedOut};

use crate::ahead::Ahead;
use crate::cut::MAX_HANDED;
use crate::plan::Plan;
use crate::run::Frame;

/// What a pass works with.
pub(crate) struct Memory<'a> {
    /// Memory of all steps for one image of each thread, or for one image alone.
    pub(crate) lanes: &'a mut [f32],
    /// Memory behind the cut for all images, if there are several.
    pub(crate) arena: &'a mut [f32],
    /// A piece for each thread.
    pub(crate) scratch: &'a mut [f32],
    pub(crate) pool: &'a mut Pool,
}

/// Some images and the plan that they run through.
pub(crate) struct Pass<'a> {
    pub(crate) plan: &'a Plan,
    /// `[images, c, h, w]`.
    pub(crate) planes: &'a [f32],
    pub(crate) images: usize,
    /// Receives the time of each step.
    pub(crate) clocks: Option<&'a [StepClock]>,
}

/// Nanoseconds of one step.
#[derive(Debug, Default)]
pub(crate) struct StepClock {
    pub(crate) step: AtomicU64,
    /// Of fusing, summed over the threads.
    pub(crate) fusing: AtomicU64,
}

impl Pass<'_> {
    pub(crate) fn run(&self, memory: &mut Memory<'_>) {
        let (plan, end) = (self.plan, self.plan.steps.len());
        if self.images == 1 {
            let Memory { lanes, scratch, pool, .. } = memory;
            return self.steps(self.frame(0, lanes, scratch, Some(pool)), 0..end, 1);
        }
        if plan.cut.step > 0 {
            self.each(memory);
        }
        let Memory { arena, scratch, pool, .. } = memory;
        let frame = Frame {
            isa: plan.options.isa,
            images: self.images,
            planes: self.planes,
            layout: &plan.cut.layout,
            arena,
            timed: self.clocks.is_some(),
            fusing: None,
            ahead: Some(Ahead::new(&plan.stream, &plan.steps)),
            scratch,
            pool: Some(pool),
        };
        self.steps(frame, plan.cut.step..end, 1);
    }

    /// The steps before the cut: each thread runs whole images. Images that are left over are shared by all threads.
    fn each(&self, memory: &mut Memory<'_>) {
        let (plan, threads) = (self.plan, memory.pool.threads());
        let Memory { lanes, arena, scratch, pool } = memory;
        let outs = self.handed(arena);
        let hand = |image: usize, lane: &[f32]| {
            for (out, &buffer) in outs.iter().flatten().zip(&plan.cut.handed) {
                let from = &lane[plan.layout.offsets[buffer]..][..plan.layout.lens[buffer]];
                out.take(image, 0, 0).row(0).copy_from_slice(from);
            }
        };
        let shared = self.images % threads;
        let alone = self.images - shared;
        if alone > 0 {
            let lanes = PerThread::new(&mut lanes[..threads * plan.layout.len], threads);
            let scratch = PerThread::new(scratch, threads);
            pool.run(alone, |image, thread| {
                let (mut lane, mut scratch) = (lanes.take(thread), scratch.take(thread));
                self.steps(self.frame(image, &mut lane, &mut scratch, None), 0..plan.cut.step, threads);
                hand(image, &lane);
            });
        }
        for image in alone..self.images {
            self.steps(self.frame(image, lanes, scratch, Some(&mut *pool)), 0..plan.cut.step, 1);
            hand(image, lanes);
        }
    }

    /// One image in the memory of a lane.
    fn frame<'f>(
        &'f self,
        image: usize,
        arena: &'f mut [f32],
        scratch: &'f mut [f32],
        pool: Option<&'f mut Pool>,
    ) -> Frame<'f> {
        let len = self.planes.len() / self.images;
        let plan = self.plan;
        Frame {
            isa: plan.options.isa,
            images: 1,
            planes: &self.planes[image * len..][..len],
            layout: &plan.layout,
            arena,
            timed: self.clocks.is_some(),
            fusing: None,
            // The images of a batch find the weights of the first ones in the cache.
            ahead: (self.images == 1).then(|| Ahead::new(&plan.stream, &plan.steps)),
            scratch,
            pool,
        }
    }

    /// Runs steps of which `at_once` threads run one each.
    fn steps<'f>(&'f self, mut frame: Frame<'f>, range: Range<usize>, at_once: usize) {
        for at in range {
            let start = self.clocks.map(|_| Instant::now());
            frame.fusing = self.clocks.map(|clocks| &clocks[at].fusing);
            if let Some(ahead) = &mut frame.ahead {
                ahead.enter(at);
            }
            frame.step(&self.plan.steps[at]);
            if let (Some(start), Some(clocks)) = (start, self.clocks) {
                // Relaxed: a sum that is read after all threads have joined.
                clocks[at]
                    .step
                    .fetch_add(start.elapsed().as_nanos() as u64 / at_once as u64, Ordering::Relaxed);
            }
        }
    }

    /// The places behind the cut of what is made before it, one tile for each image.
    fn handed<'m>(&self, arena: &'m mut [f32]) -> [Option<SharedOut<'m>>; MAX_HANDED] {
        let (cut, images) = (&self.plan.cut, self.images);
        let mut outs = [const { None }; MAX_HANDED];
        let (mut at, mut rest) = (0, arena);
        for (out, &buffer) in outs.iter_mut().zip(&cut.handed) {
            let (start, len) = (images * cut.layout.offsets[buffer], cut.layout.lens[buffer]);
            let (piece, tail) = rest[start - at..].split_at_mut(images * len);
            (at, rest) = (start + images * len, tail);
            let grid = Grid { images, pixels: 1, channels: len, ld: len, pixel_block: 1, channel_block: len };
            *out = Some(SharedOut::new(piece, 0, grid));
        }
        outs
    }
}
