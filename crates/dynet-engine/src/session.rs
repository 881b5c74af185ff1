//! A caller's memory and threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dynet_kernels::{Buffer, Pool};
use dynet_net::NodeId;

use crate::blocks::MAX_IMAGES;
use crate::error::RunError;
use crate::plan::Plan;
use crate::run::Frame;
use crate::step::View;

/// Runs images through a [`Plan`].
///
/// Memory is taken at the first batch and when a larger one comes; after that a run allocates nothing. An image's
/// logits are the same bits at any batch position, batch size and number of threads.
pub struct Session {
    plan: Arc<Plan>,
    pool: Pool,
    arena: Buffer<f32>,
    scratch: Buffer<f32>,
    logits: Vec<f32>,
    /// Images that the arena holds, and those of the last piece of a batch.
    capacity: usize,
    last: usize,
    tap: Vec<f32>,
}

impl Session {
    /// A session with its own threads, the caller of [`Session::run`] among them.
    ///
    /// # Errors
    /// If the system gives no further thread.
    pub fn new(plan: Arc<Plan>, threads: usize) -> Result<Self, RunError> {
        let pool = Pool::new(threads).map_err(RunError::Threads)?;
        let scratch = dynet_kernels::PerThread::size(plan.scratch_len, pool.threads());
        Ok(Self {
            plan,
            pool,
            arena: Buffer::zeroed(0),
            scratch: Buffer::zeroed(scratch),
            logits: Vec::new(),
            capacity: 0,
            last: 0,
            tap: Vec::new(),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Threads, the caller of [`Session::run`] among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The logits `[n, classes]` of images `[n, c, h, w]`.
    ///
    /// # Errors
    /// If the values are not whole images.
    pub fn run(&mut self, images: &[f32]) -> Result<&[f32], RunError> {
        self.pieces(images, None, |_, _, _| {})?;
        Ok(&self.logits)
    }

    /// [`Session::run`], which adds the time of each step to `times`, as [`Plan::layers`] lists them.
    ///
    /// # Errors
    /// If the values are not whole images.
    ///
    /// # Panics
    /// If there are not as many times as steps.
    pub fn run_timed(&mut self, images: &[f32], times: &mut [Duration]) -> Result<&[f32], RunError> {
        assert_eq!(times.len(), self.plan.steps.len(), "one time for each step");
        self.pieces(images, Some(times), |_, _, _| {})?;
        Ok(&self.logits)
    }

    /// [`Session::run`] that shows the outputs of nodes: `look(image, node, values)` for each image in turn and each
    /// of the plan's taps in the order of [`Options::taps`](crate::Options::taps), values as `[c, h, w]`.
    ///
    /// The values of a predictor are its coefficients after softmax or sigmoid, head behind head, each
    /// `[experts, channels]`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dynet_engine::{Options, Plan, Session};
    /// # use dynet_net::{DynamicOptions, Op, Weights, zoo};
    /// # let options = zoo::ZooOptions { size: [32, 32], dynamic: Some(DynamicOptions::default()), ..Default::default() };
    /// # let net = zoo::build("resnet18", &options)?;
    /// # let weights = Weights::init(&net, 0);
    /// let predictors = net.ids().filter(|id| matches!(net.node(*id).op, Op::Predictor(_))).collect();
    /// let plan = Plan::compile(&net, &weights, &Options { taps: predictors, ..Options::default() })?;
    /// let mut session = Session::new(Arc::new(plan), 1)?;
    /// let images = vec![0.5; 2 * 3 * 32 * 32];
    /// session.run_with_taps(&images, |image, node, coefficients| {
    ///     println!("{image} {}: {coefficients:.2?}", net.node(node).name);
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the values are not whole images.
    pub fn run_with_taps(
        &mut self,
        images: &[f32],
        look: impl FnMut(usize, NodeId, &[f32]),
    ) -> Result<&[f32], RunError> {
        self.pieces(images, None, look)?;
        Ok(&self.logits)
    }

    /// Cuts a batch into pieces that run together.
    fn pieces(
        &mut self,
        images: &[f32],
        mut times: Option<&mut [Duration]>,
        mut look: impl FnMut(usize, NodeId, &[f32]),
    ) -> Result<(), RunError> {
        let shape = self.plan.net.input();
        if !images.len().is_multiple_of(shape.len()) {
            let (expected, got) = (shape.len(), images.len());
            return Err(RunError::Length { expected, shape: shape.to_string(), got });
        }
        let n = images.len() / shape.len();
        self.reserve(n);
        for (piece, planes) in images.chunks(MAX_IMAGES * shape.len()).enumerate() {
            let first = piece * MAX_IMAGES;
            self.last = planes.len() / shape.len();
            self.piece(first, planes, times.as_deref_mut());
            for image in 0..self.last {
                for tap in 0..self.plan.taps.len() {
                    self.fetch(self.plan.taps[tap], image);
                    look(first + image, self.plan.options.taps[tap], &self.tap);
                }
            }
        }
        Ok(())
    }

    fn reserve(&mut self, images: usize) {
        let together = images.min(MAX_IMAGES);
        if together > self.capacity {
            self.arena = Buffer::zeroed(together * self.plan.layout.len);
            self.capacity = together;
        }
        self.logits.resize(images * self.plan.net.classes(), 0.0);
    }

    fn piece(&mut self, first: usize, planes: &[f32], mut times: Option<&mut [Duration]>) {
        let plan = &*self.plan;
        let mut frame = Frame {
            isa: plan.options.isa,
            images: self.last,
            planes,
            layout: &plan.layout,
            arena: &mut self.arena,
            scratch: &mut self.scratch,
            pool: &mut self.pool,
        };
        for (at, step) in plan.steps.iter().enumerate() {
            let start = times.is_some().then(Instant::now);
            frame.step(step);
            if let (Some(start), Some(times)) = (start, &mut times) {
                times[at] += start.elapsed();
            }
        }
        let (view, classes) = (plan.logits, plan.net.classes());
        let logits = &self.arena[self.last * plan.layout.offsets[view.buffer]..];
        for (i, to) in self.logits[first * classes..].chunks_exact_mut(classes).take(self.last).enumerate() {
            to.copy_from_slice(&logits[i * plan.layout.lens[view.buffer] + view.channel0..][..classes]);
        }
    }

    /// Copies a map to `[c, h, w]`.
    fn fetch(&mut self, view: View, image: usize) {
        let first =
            self.last * self.plan.layout.offsets[view.buffer] + image * self.plan.layout.lens[view.buffer];
        self.tap.clear();
        for c in 0..view.channels {
            let at = |p: usize| self.arena[first + view.channel0 + c + p * view.ld];
            self.tap.extend((0..view.pixels).map(at));
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session of {} with {} threads", self.plan.net.name(), self.threads())
    }
}
