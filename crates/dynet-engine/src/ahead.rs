//! Weights in the order in which a run reads them: layers that compute bring those of later layers into the caches.
//!
//! A net of dynamic convolutions reads its fixed kernels and predictors once for each image, from memory where they
//! are many. Its early layers compute, while memory has nothing to do.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::step::{Kind, Step};

/// How far ahead of the layer that runs: bytes of weights and maps that pass through a last-level cache of 32 MiB until
/// the weights are read, and do not drive them out again.
const WINDOW: usize = 16 << 20;
/// Bytes below which a tile is not asked to bring anything.
const LEAST: usize = 4096;

/// One block of packed weights.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Bytes of all pieces up to this one.
    end: usize,
    step: usize,
    block: Block,
}

/// Which of a step's weights.
#[derive(Clone, Copy, Debug)]
enum Block {
    /// Those of a panel of its gate.
    Gate(usize),
    /// Those of the 1x1 convolution that makes its input.
    Expand,
    Own,
}

/// All weights of a plan, in order.
#[derive(Debug)]
pub(crate) struct Stream {
    pieces: Vec<Piece>,
    /// Bytes up to the end of each step.
    ends: Vec<usize>,
    /// How far weights are brought while a step runs.
    limits: Vec<usize>,
}

impl Stream {
    /// The weights of steps whose maps have `map_bytes`.
    pub(crate) fn new(steps: &[Step], map_bytes: impl Fn(usize) -> usize) -> Self {
        let mut stream = Self { pieces: Vec::new(), ends: Vec::new(), limits: Vec::new() };
        let mut end = 0;
        for (step, at) in steps.iter().enumerate() {
            let gate = (0..gate(at).map_or(0, |g| g.len())).map(Block::Gate);
            for block in gate.chain([Block::Expand, Block::Own]) {
                end += bytes(at, block).len();
                stream.pieces.push(Piece { end, step, block });
            }
            stream.ends.push(end);
        }
        // Two fingers: `last` is the last step that is near enough.
        let passes = |step: usize| {
            stream.ends[step] - if step == 0 { 0 } else { stream.ends[step - 1] } + map_bytes(step)
        };
        let (mut last, mut between) = (0, 0);
        for step in 0..steps.len() {
            last = last.max(step);
            while last + 1 < steps.len() && between + passes(last + 1) <= WINDOW {
                last += 1;
                between += passes(last);
            }
            let next = stream.ends[(last + 1).min(steps.len() - 1)];
            stream.limits.push(next.min(stream.ends[last] + WINDOW - between));
            between -= if step + 1 < steps.len() && last > step { passes(step + 1) } else { 0 };
        }
        stream
    }
}

fn gate(step: &Step) -> Option<&[dynet_kernels::Panels]> {
    match &step.kind {
        Kind::Gate { gate, .. } => Some(&gate.weights),
        _ => None,
    }
}

fn bytes(step: &Step, block: Block) -> &[u8] {
    match (block, &step.kind) {
        (Block::Gate(panel), _) => gate(step).map_or(&[], |gate| gate[panel].as_bytes()),
        (Block::Expand, Kind::Conv(c)) => c.expand.as_ref().map_or(&[], |e| e.weights.as_bytes()),
        (Block::Own, Kind::Conv(c)) => c.weights.as_bytes(),
        (Block::Own, Kind::Dense(d)) => d.weights.as_bytes(),
        _ => &[],
    }
}

/// How far a run has brought its weights.
pub(crate) struct Ahead<'a> {
    stream: &'a Stream,
    steps: &'a [Step],
    next: AtomicUsize,
    limit: usize,
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(stream: &'a Stream, steps: &'a [Step]) -> Self {
        Self { stream, steps, next: AtomicUsize::new(0), limit: 0 }
    }

    /// A step begins: it reads its own weights itself.
    pub(crate) fn enter(&mut self, step: usize) {
        let end = self.stream.ends[step];
        let next = self.next.get_mut();
        *next = end.max(*next);
        self.limit = self.stream.limits[step];
    }

    /// The next bytes to bring, at most `len`, each once.
    pub(crate) fn take(&self, len: usize) -> &'a [u8] {
        // Relaxed: nothing but the position itself is shared.
        let from = self.next.load(Ordering::Relaxed);
        let piece = self.stream.pieces.partition_point(|p| p.end <= from);
        let Some(Piece { end, step, block }) = self.stream.pieces.get(piece).copied() else { return &[] };
        let to = (from + len).min(end).min(self.limit);
        if len < LEAST
            || to <= from
            || self.next.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return &[];
        }
        let bytes = bytes(&self.steps[step], block);
        let start = end - bytes.len();
        &bytes[from - start..to - start]
    }
}

#[cfg(test)]
mod tests {
    use dynet_net::zoo::{self, ZooOptions};
    use dynet_net::{DynamicOptions, Weights};

    use super::*;
    use crate::plan::{Options, Plan};

    #[test]
    fn every_later_byte_is_brought_once_and_none_of_the_layer_that_runs() {
        let dynamic = Some(DynamicOptions::default());
        let options = ZooOptions { width: 0.5, classes: 7, size: [64, 64], dynamic, ..Default::default() };
        let net = zoo::build("mobilenet_v3_small", &options).unwrap();
        let plan = Plan::compile(&net, &Weights::init(&net, 1), &Options::default()).unwrap();
        let ends = &plan.stream.ends;
        let total = plan.stream.pieces.last().unwrap().end;
        assert!((1 << 20..WINDOW).contains(&total), "{total} bytes");
        for step in [0, plan.steps.len() / 2] {
            let mut ahead = Ahead::new(&plan.stream, &plan.steps);
            ahead.enter(step);
            let mut places = Vec::new();
            loop {
                let bytes = ahead.take(5000);
                if bytes.is_empty() {
                    break;
                }
                places.push(bytes.as_ptr_range());
            }
            let taken: usize = places.iter().map(|p| p.end as usize - p.start as usize).sum();
            assert_eq!(taken, total - ends[step], "from step {step}");
            places.sort_by_key(|p| p.start);
            assert!(places.windows(2).all(|w| w[0].end <= w[1].start), "a byte twice from step {step}");
        }
    }

    #[test]
    fn no_more_is_brought_than_a_cache_holds() {
        let dynamic = Some(DynamicOptions::default());
        let options = ZooOptions { size: [32, 32], dynamic, ..Default::default() };
        let net = zoo::build("resnet18", &options).unwrap();
        let plan = Plan::compile(&net, &Weights::init(&net, 1), &Options::default()).unwrap();
        let mut ahead = Ahead::new(&plan.stream, &plan.steps);
        ahead.enter(0);
        let taken: usize = std::iter::from_fn(|| Some(ahead.take(1 << 16).len()).filter(|n| *n > 0)).sum();
        assert!((WINDOW / 2..=WINDOW).contains(&taken), "{taken} bytes");
    }
}
