//! What becomes of the gradient of a dense layer's weights: it is written, or it updates the weights in place, a few of
//! its columns at a time, while they are in cache.

use std::marker::PhantomData;

use crate::backward::dense::{Block, Dense};
use crate::backward::team::{Raw, Team};
use crate::backward::transpose::{Far, Transpose};
use crate::backward::update::Update;
use crate::isa::Isa;

/// Columns of a gradient that are collected, at least, before they update the weights: a row of so many values is long
/// enough for memory to give it at its pace.
const COLUMNS: usize = 256;

/// What becomes of the gradient of weights.
pub enum Goal<'a> {
    /// It is written.
    Gradient(&'a mut [f32]),
    /// It updates the weights, which the layer itself then does not have.
    Update(Update<'a>),
}

impl Goal<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Gradient(dw) => dw.len(),
            Self::Update(update) => update.len(),
        }
    }

    /// Values that [`Sums::new`] needs.
    pub(super) fn sums(&self, runs: usize) -> usize {
        match self {
            Self::Gradient(dw) => (runs - 1) * dw.len(),
            Self::Update(_) if runs == 1 => 0,
            Self::Update(update) => runs * update.len(),
        }
    }
}

/// A goal that the parts of a job share. Each of several runs of pixels has sums of its own, which are added up in
/// order.
pub(super) struct Sums<'a> {
    pub(super) update: Option<Update<'a>>,
    /// The gradient of the weights: of the first run, and of the others behind one another.
    of_runs: [Raw; 2],
    len: usize,
    runs: usize,
    own: PhantomData<&'a mut [f32]>,
}

impl<'a> Sums<'a> {
    /// With [`Goal::sums`] values of memory.
    pub(super) fn new(goal: Goal<'a>, runs: usize, memory: &'a mut [f32]) -> Self {
        assert!(memory.len() >= goal.sums(runs), "{} values for {runs} runs", memory.len());
        let (len, own, memory) = (goal.len(), PhantomData, Raw::of(memory));
        let (update, of_runs) = match goal {
            Goal::Gradient(dw) => (None, [Raw::of(dw), memory]),
            Goal::Update(update) => (Some(update), [memory, memory.offset(len)]),
        };
        Self { update, of_runs, len, runs, own }
    }

    /// Where columns of a run land; [`Landing::updating`] says what an update asks for.
    pub(super) fn landing<'l>(
        &'l self,
        layer: &'l Dense<'l>,
        isa: Isa,
        block: Block,
        run: usize,
        scratch: (&'l mut [f32], usize),
    ) -> Landing<'l> {
        match (&self.update, self.runs, run) {
            (Some(update), 1, _) => Landing::updating(layer, isa, block, update, scratch),
            (_, _, 0) => Landing::written(layer, isa, block, self.of_runs[0]),
            _ => Landing::written(layer, isa, block, self.of_runs[1].offset((run - 1) * self.len)),
        }
    }

    /// Adds the runs up, and makes the update if they all had to be there for it.
    pub(super) fn finish(self, team: &mut Team) {
        if self.runs == 1 {
            return;
        }
        let [first, others] = self.of_runs;
        // SAFETY: both are borrowed for as long as `self` lives, and no part runs any more.
        let (sum, others) =
            unsafe { (first.slice(0, self.len), others.slice(0, (self.runs - 1) * self.len)) };
        add_parts(sum, others);
        if let Some(update) = &self.update {
            update.step(team, sum);
        }
    }
}

/// Adds parts of the size of the sum, in order.
pub(super) fn add_parts(sum: &mut [f32], parts: &[f32]) {
    for part in parts.chunks_exact(sum.len()) {
        sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
}

/// Rows of a block of output channels, of all experts: where a part of a job puts its columns of the gradient.
#[derive(Clone, Copy)]
struct Rows {
    to: Raw,
    /// From one expert to the next, and from one channel to the next.
    steps: [usize; 2],
    /// The input channel whose columns come first.
    first: usize,
}

/// The gradient of a part of a job on its way.
pub(super) struct Landing<'a> {
    layer: &'a Dense<'a>,
    isa: Isa,
    block: Block,
    rows: Rows,
    update: Option<&'a Update<'a>>,
}

impl<'a> Landing<'a> {
    /// Values of scratch memory for [`Self::updating`], where at most `most` channels land at once.
    pub(super) fn scratch(layer: &Dense<'_>, isa: Isa, most: usize) -> usize {
        layer.experts * isa.nr() * (COLUMNS + most * layer.window.taps()).min(layer.k())
    }

    /// In a gradient of the size of the weights.
    pub(super) fn written(layer: &'a Dense<'a>, isa: Isa, block: Block, dw: Raw) -> Self {
        let k = layer.k();
        let rows = Rows { to: dw.offset(block.c0 * k), steps: [layer.c_out * k, k], first: 0 };
        Self { layer, isa, block, rows, update: None }
    }

    /// In the weights, by way of `scratch`. The part must be the only one with the channels of the block that land,
    /// which follow one another from channel `first` on.
    pub(super) fn updating(
        layer: &'a Dense<'a>,
        isa: Isa,
        block: Block,
        update: &'a Update<'a>,
        (scratch, first): (&'a mut [f32], usize),
    ) -> Self {
        let width = scratch.len() / (layer.experts * isa.nr());
        let rows = Rows { to: Raw::of(scratch), steps: [isa.nr() * width, width], first };
        Self { layer, isa, block, rows, update: Some(update) }
    }

    /// Takes columns of one expert that lie as rows of `nr` values, the one of column `q` at `at(q)`: those of `channels`
    /// input channels from `c` on.
    pub(super) fn take(
        &mut self,
        expert: usize,
        [c, channels]: [usize; 2],
        from: &[f32],
        at: impl Fn(usize) -> usize,
    ) {
        let (Rows { to, steps, first }, taps) = (self.rows, self.layer.window.taps());
        self.isa.run(Transpose {
            src: from.as_ptr(),
            from: at,
            rows: channels * taps,
            cols: self.block.cols,
            dst: to.at(expert * steps[0] + (c - first) * taps),
            to: |lane| lane * steps[1],
            far: Far::Destination,
        });
    }

    /// All experts' columns of the channels before `end` have landed; `last` where no others follow.
    pub(super) fn landed(&mut self, end: usize, last: bool) {
        let Some(update) = self.update else { return };
        let (Dense { experts, c_out, .. }, taps, k) = (*self.layer, self.layer.window.taps(), self.layer.k());
        let Rows { to, steps, first } = self.rows;
        let (cols, len) = (self.block.cols, (end - first) * taps);
        if len < COLUMNS && !last {
            return;
        }
        let start = |row: usize| (row / cols * c_out + self.block.c0 + row % cols) * k + first * taps;
        for row in 0..experts * cols {
            update.ask_for(self.isa, start(row + 1), len);
            let gradient = to.at(row / cols * steps[0] + row % cols * steps[1]);
            // SAFETY: of these rows the part alone has these channels; their gradient has landed.
            unsafe { update.apply(self.isa, start(row), gradient, len) };
        }
        self.rows.first = end;
    }
}

impl Dense<'_> {
    /// # Panics
    /// If the gradient of the weights or their update has another size than they, or the layer has weights with an update.
    pub(super) fn check_goal(&self, goal: &Goal<'_>) {
        let len = self.experts * self.c_out * self.k();
        let own = if let Goal::Update(_) = goal { 0 } else { len };
        assert_eq!([self.weights.len(), goal.len()], [own, len], "weights, and their gradient or update");
    }

    /// The weights, which with an update are not the layer's.
    pub(super) fn weights_of(&self, update: Option<&Update<'_>>) -> *const f32 {
        update.map_or(self.weights.as_ptr(), Update::weights)
    }
}
