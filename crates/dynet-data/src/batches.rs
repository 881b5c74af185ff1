//! Batches, made on other threads ahead of whoever takes them.
//!
//! Workers claim batches in order, at most `ahead` of the one that is awaited, which bounds the memory. Each
//! batch is made by one worker from (seed, epoch, indices) alone, so neither their number nor their speed
//! shows in the bits.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dynet_net::Preprocessing;

use crate::augment::Augment;
use crate::mix::mix;
use crate::random::{Purpose, shuffle, stream};
use crate::{DataError, Dataset, Skipped, preprocess};

/// How the images of a data set become batches.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// Images a batch.
    pub batch: usize,
    /// Number of the epoch: another order and other augmentation in each.
    pub epoch: u64,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Another order in each epoch, or that of the data set.
    pub shuffle: bool,
    /// Leave out a last batch that is not full.
    pub drop_last: bool,
    /// Batches to leave out at the beginning: where to take an epoch up again.
    pub start: usize,
    /// Augmentation; `None` for evaluation.
    pub augment: Option<Augment>,
    /// The net's input.
    pub preprocessing: Preprocessing,
    /// Threads that decode and augment; 0 does it on the caller's, when asked.
    pub workers: usize,
    /// Batches, made or being made, that may wait for the caller; at least 1.
    pub ahead: usize,
    /// Leave out an image that cannot be read, and list it in its batch, instead of ending in its error.
    pub skip_bad: bool,
}

/// What a net is to say of an image: class `a` with `share_a`, class `b` with the rest. Without mixing the
/// classes are the same and the share is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Class of the image.
    pub a: usize,
    /// Class of the image mixed into it.
    pub b: usize,
    /// Share of `a`, from 0 to 1.
    pub share_a: f32,
}

/// Images that go through a net together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The images, `[n, c, h, w]`, normalised.
    pub images: Vec<f32>,
    /// `[n, c, h, w]`.
    pub shape: [usize; 4],
    /// One for each image.
    pub targets: Vec<Target>,
    /// The number of each image in its data set.
    pub indices: Vec<usize>,
    /// Images left out because they cannot be read (with [`BatchOptions::skip_bad`]).
    pub skipped: Vec<Skipped>,
}

/// The batches of one epoch, in order. Ends after the first error. Dropping it ends and joins the workers.
#[derive(Debug)]
pub struct Batches {
    job: Arc<Job>,
    next: usize,
    threads: Vec<JoinHandle<()>>,
    failed: bool,
}

#[derive(Debug)]
struct Job {
    dataset: Arc<Dataset>,
    options: BatchOptions,
    order: Vec<usize>,
    /// Number of batches, those before `start` included.
    count: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The batch that the next free worker makes.
    claim: usize,
    /// The batch that the caller takes next.
    take: usize,
    ready: BTreeMap<usize, Result<Batch, DataError>>,
    stop: bool,
}

/// The batches of `dataset` for one epoch. Settings that cannot be are the first item, an error.
pub fn batches(dataset: &Arc<Dataset>, options: &BatchOptions) -> Batches {
    let mut order: Vec<usize> = (0..dataset.len()).collect();
    if options.shuffle {
        shuffle(&mut order, &mut stream(Purpose::Order, options.seed, options.epoch, 0));
    }
    let size = options.batch.max(1);
    let count = if options.drop_last { order.len() / size } else { order.len().div_ceil(size) };
    let mut state = State { claim: options.start, take: options.start, ..State::default() };
    let refused = check(options).err();
    let workers = if refused.is_some() { 0 } else { options.workers };
    let failed = refused.map(|error| state.ready.insert(options.start, Err(error))).is_some();
    let job = Arc::new(Job {
        dataset: Arc::clone(dataset),
        options: options.clone(),
        order,
        count: if failed { usize::MAX } else { count },
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    let threads = (0..workers.min(count.saturating_sub(options.start)))
        .filter_map(|number| {
            let job = Arc::clone(&job);
            let thread = std::thread::Builder::new().name(format!("data-{number}"));
            thread.spawn(move || job.work()).ok()
        })
        .collect();
    Batches { job, next: options.start, threads, failed: false }
}

fn check(options: &BatchOptions) -> Result<(), DataError> {
    if options.batch == 0 {
        return Err(DataError::option("batch", "at least 1 image", 0));
    }
    options.augment.iter().try_for_each(Augment::check)?;
    Ok(options.preprocessing.check()?)
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life.
    fn work(&self) {
        let ahead = self.options.ahead.max(1);
        loop {
            let mut state = self.lock();
            while !state.stop && state.claim < self.count && state.claim >= state.take.saturating_add(ahead) {
                state = self.wait(state);
            }
            if state.stop || state.claim >= self.count {
                return;
            }
            let number = state.claim;
            state.claim += 1;
            drop(state);
            let made = self.make(number);
            self.lock().ready.insert(number, made);
            self.changed.notify_all();
        }
    }

    /// Batch `number`; a panic on the way becomes an error.
    fn make(&self, number: usize) -> Result<Batch, DataError> {
        catch_unwind(AssertUnwindSafe(|| self.make_batch(number)))
            .unwrap_or_else(|panic| Err(DataError::Worker(panic_message(panic.as_ref()))))
    }

    fn make_batch(&self, number: usize) -> Result<Batch, DataError> {
        let options = &self.options;
        let end = ((number + 1) * options.batch).min(self.order.len());
        let wanted = &self.order[number * options.batch..end];
        let [height, width] = options.preprocessing.crop;
        let one = [options.preprocessing.channels.count(), height, width];
        let mut batch = Batch {
            images: Vec::with_capacity(wanted.len() * one.iter().product::<usize>()),
            shape: [0, one[0], one[1], one[2]],
            targets: Vec::with_capacity(wanted.len()),
            indices: Vec::with_capacity(wanted.len()),
            skipped: Vec::new(),
        };
        for &index in wanted {
            match self.sample(index) {
                Ok(values) => {
                    let label = self.dataset.label(index);
                    batch.images.extend(values);
                    batch.targets.push(Target { a: label, b: label, share_a: 1.0 });
                    batch.indices.push(index);
                }
                Err(error) if options.skip_bad => batch
                    .skipped
                    .push(Skipped { path: self.dataset.name_of(index).into(), reason: error.to_string() }),
                Err(error) => return Err(error),
            }
        }
        if batch.indices.is_empty() && !batch.skipped.is_empty() {
            return Err(DataError::option("images of a batch", "at least one that can be read", 0));
        }
        batch.shape[0] = batch.indices.len();
        if let Some(augment) = &options.augment {
            let mut streams: Vec<_> = batch.indices.iter().map(|&i| self.stream(Purpose::Mix, i)).collect();
            mix(&mut batch.images, batch.shape, &mut batch.targets, &mut streams, augment);
        }
        Ok(batch)
    }

    fn sample(&self, index: usize) -> Result<Vec<f32>, DataError> {
        let image = self.dataset.image(index)?;
        let preprocessing = &self.options.preprocessing;
        Ok(match &self.options.augment {
            None => preprocess(&image, preprocessing),
            Some(augment) => augment.apply(&image, preprocessing, &mut self.stream(Purpose::Augment, index)),
        })
    }

    fn stream(&self, purpose: Purpose, index: usize) -> rand_chacha::ChaCha8Rng {
        stream(purpose, self.options.seed, self.options.epoch, index as u64)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

impl Batches {
    /// Batches still to come.
    pub fn remaining(&self) -> usize {
        if self.failed || self.job.count == usize::MAX { 0 } else { self.job.count.saturating_sub(self.next) }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.next >= self.job.count {
            return None;
        }
        let mut state = self.job.lock();
        let item = loop {
            if let Some(item) = state.ready.remove(&self.next) {
                state.take = self.next + 1;
                drop(state);
                self.job.changed.notify_all();
                break item;
            }
            if self.threads.is_empty() {
                drop(state);
                break self.job.make(self.next);
            }
            state = self.job.wait(state);
        };
        self.next += 1;
        self.failed = item.is_err();
        Some(item)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.job.lock().stop = true;
        self.job.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches its panics; there is nothing left to learn from it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynet_net::{Channels, Interpolation};

    use super::*;
    use crate::Image;

    fn options(workers: usize, ahead: usize) -> BatchOptions {
        let preprocessing = Preprocessing {
            resize: None,
            crop: [2, 2],
            interpolation: Interpolation::Nearest,
            channels: Channels::Gray,
            mean: vec![0.0],
            std: vec![1.0],
        };
        let (batch, epoch, seed, start) = (1, 0, 0, 0);
        let (shuffle, drop_last, skip_bad, augment) = (false, false, false, None);
        BatchOptions {
            batch,
            epoch,
            seed,
            shuffle,
            drop_last,
            start,
            augment,
            preprocessing,
            workers,
            ahead,
            skip_bad,
        }
    }

    fn dataset() -> Arc<Dataset> {
        let image = Image { width: 2, height: 2, channels: Channels::Gray, pixels: vec![9; 4] };
        Arc::new(Dataset::from_images(std::iter::repeat_n((image, 0), 20), "nines").unwrap())
    }

    #[test]
    fn no_more_than_ahead_batches_are_made_and_dropping_ends_the_workers() {
        let mut batches = batches(&dataset(), &options(3, 4));
        for taken in 0..3 {
            while batches.job.lock().ready.len() < 4 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
            let state = batches.job.lock();
            assert_eq!((state.claim, state.ready.len()), (taken + 4, 4));
            drop(state);
            assert!(batches.next().unwrap().is_ok());
        }
        let job = Arc::downgrade(&batches.job);
        drop(batches);
        assert!(job.upgrade().is_none(), "a worker outlives its batches");
    }

    #[test]
    fn a_panic_of_a_worker_is_an_error_and_no_hang() {
        for workers in [0, 2] {
            let mut batches = batches(&dataset(), &options(0, 4));
            // A batch that begins beyond the last image: slicing panics.
            Arc::get_mut(&mut batches.job).unwrap().count = 25;
            batches.threads = (0..workers)
                .map(|_| {
                    let job = Arc::clone(&batches.job);
                    std::thread::spawn(move || job.work())
                })
                .collect();
            assert_eq!(batches.by_ref().take(20).filter(Result::is_ok).count(), 20);
            // The range 20..20 is empty, 21..20 is none.
            let last: Vec<_> = batches.collect();
            assert!(matches!(last.last(), Some(Err(DataError::Worker(_)))), "{last:?}");
        }
    }
}
