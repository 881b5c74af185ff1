//! A caller's memory and threads.

use std::sync::Arc;
use std::time::Duration;

use dynet_kernels::{Buffer, PerThread, Pool};
use dynet_net::NodeId;

use crate::blocks::MAX_IMAGES;
use crate::error::RunError;
use crate::pass::{Memory, Pass, StepClock};
use crate::plan::Plan;
use crate::step::View;

/// Time of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTime {
    /// From its begin to its end.
    pub total: Duration,
    /// Of fusing kernels, in the mean of all threads, but for what products fuse while they multiply.
    pub fusing: Duration,
}

/// Runs images through a [`Plan`].
///
/// Memory is taken at the first batch and when a larger one comes; after that a run allocates nothing. An image's
/// logits are the same bits at any batch position, batch size and number of threads.
pub struct Session {
    plan: Arc<Plan>,
    pool: Pool,
    /// Memory of all steps for one image of each thread.
    lanes: Buffer<f32>,
    /// Memory behind the plan's cut for all images.
    arena: Buffer<f32>,
    scratch: Buffer<f32>,
    logits: Vec<f32>,
    /// Images of the last piece of a batch.
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
        let scratch = PerThread::size(plan.scratch_len, pool.threads());
        Ok(Self {
            plan,
            pool,
            lanes: Buffer::zeroed(0),
            arena: Buffer::zeroed(0),
            scratch: Buffer::zeroed(scratch),
            logits: Vec::new(),
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

    /// [`Session::run`], which adds the time of each step to `times`, as [`Plan::layers`] lists them. Predictors that a
    /// run leaves to the threads that fuse, whose work overlaps theirs, are timed as steps of their own.
    ///
    /// # Errors
    /// If the values are not whole images.
    ///
    /// # Panics
    /// If there are not as many times as steps.
    pub fn run_timed(&mut self, images: &[f32], times: &mut [StepTime]) -> Result<&[f32], RunError> {
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
        times: Option<&mut [StepTime]>,
        mut look: impl FnMut(usize, NodeId, &[f32]),
    ) -> Result<(), RunError> {
        let shape = self.plan.net.input();
        if !images.len().is_multiple_of(shape.len()) {
            let (expected, got) = (shape.len(), images.len());
            return Err(RunError::Length { expected, shape: shape.to_string(), got });
        }
        let n = images.len() / shape.len();
        self.reserve(n);
        let clocks: Option<Vec<StepClock>> =
            times.as_ref().map(|times| times.iter().map(|_| StepClock::default()).collect());
        for (piece, planes) in images.chunks(MAX_IMAGES * shape.len()).enumerate() {
            let first = piece * MAX_IMAGES;
            self.last = planes.len() / shape.len();
            let pass = Pass { plan: &self.plan, planes, images: self.last, clocks: clocks.as_deref() };
            pass.run(&mut Memory {
                lanes: &mut self.lanes,
                arena: &mut self.arena,
                scratch: &mut self.scratch,
                pool: &mut self.pool,
            });
            self.take_logits(first);
            for image in 0..self.last {
                for tap in 0..self.plan.taps.len() {
                    self.fetch(self.plan.taps[tap], image);
                    look(first + image, self.plan.options.taps[tap], &self.tap);
                }
            }
        }
        let threads = self.pool.threads() as u64;
        for (time, clock) in times.into_iter().flatten().zip(clocks.into_iter().flatten()) {
            time.total += Duration::from_nanos(clock.step.into_inner());
            time.fusing += Duration::from_nanos(clock.fusing.into_inner() / threads);
        }
        Ok(())
    }

    fn reserve(&mut self, images: usize) {
        let (plan, together) = (&*self.plan, images.min(MAX_IMAGES));
        let lanes = plan.lanes_len(together, self.pool.threads());
        // A batch that is not a whole number of pieces may leave a single image.
        let alone = if images > MAX_IMAGES { plan.layout.len } else { 0 };
        let lanes = lanes.max(alone);
        if lanes > self.lanes.len() {
            self.lanes = Buffer::zeroed(lanes);
        }
        let arena = if together > 1 { together * plan.cut.layout.len } else { 0 };
        if arena > self.arena.len() {
            self.arena = Buffer::zeroed(arena);
        }
        self.logits.resize(images * plan.net.classes(), 0.0);
    }

    /// The memory of the last piece that held a view's buffer, and where in it the buffer of image 0 starts.
    fn place(&self, view: View) -> (&[f32], usize) {
        match self.last {
            1 => (&self.lanes, self.plan.layout.offsets[view.buffer]),
            n => (&self.arena, n * self.plan.cut.layout.offsets[view.buffer]),
        }
    }

    /// Copies the logits of the last piece, whose first image is `first`.
    fn take_logits(&mut self, first: usize) {
        let (view, classes) = (self.plan.logits, self.plan.net.classes());
        let mut logits = std::mem::take(&mut self.logits);
        let (memory, start) = self.place(view);
        for (i, to) in logits[first * classes..].chunks_exact_mut(classes).take(self.last).enumerate() {
            let at = start + i * self.plan.layout.lens[view.buffer] + view.channel0;
            to.copy_from_slice(&memory[at..][..classes]);
        }
        self.logits = logits;
    }

    /// Copies a map to `[c, h, w]`.
    fn fetch(&mut self, view: View, image: usize) {
        let mut tap = std::mem::take(&mut self.tap);
        let (memory, start) = self.place(view);
        let first = start + image * self.plan.layout.lens[view.buffer] + view.channel0;
        tap.clear();
        for c in 0..view.channels {
            tap.extend((0..view.pixels).map(|p| memory[first + c + p * view.ld]));
        }
        self.tap = tap;
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session of {} with {} threads", self.plan.net.name(), self.threads())
    }
}
