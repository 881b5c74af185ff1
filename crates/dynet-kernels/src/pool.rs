//! A fork-join pool of threads whose fork and join cost about a microsecond.
//!
//! It lives here and not in the engine because it hands a borrowed closure to threads that outlive it,
//! which takes `unsafe`. Workers spin for a while after a job, then park.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use crate::shared::MAX_THREADS;

/// Rounds of waiting before a worker parks. A `pause` takes some 12 ns: about 50 microseconds, longer than
/// the gap between two layers and short enough not to burn a core between two requests.
const SPINS: usize = 4096;

/// The closure of the current run, its type and lifetime erased.
#[derive(Clone, Copy)]
struct Work {
    data: *const (),
    call: unsafe fn(*const (), usize, usize),
    threads: usize,
}

/// `gate` holds the number of the run in its upper bits, how many threads take part, whether they may still enter, and how many
/// workers are inside.
const OPEN: u64 = 1 << 8;
const INSIDE: u64 = OPEN - 1;
const PART_IN: u64 = OPEN << 1;
const RUN: u64 = PART_IN << 8;

/// A share with a cache line of its own: a thread that takes from it does not take the line from another one.
#[repr(align(64))]
struct Share(AtomicU64);

struct State {
    gate: AtomicU64,
    work: UnsafeCell<Option<Work>>,
    /// Parts that are left of each thread's share: the first one, and in the upper half the one behind the last.
    left: [Share; MAX_THREADS],
    asleep: [AtomicBool; MAX_THREADS],
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written only while the gate is closed and nobody is inside, and read only inside.
unsafe impl Sync for State {}
// SAFETY: the pointers in `work` are used only while the run that set them has not returned.
unsafe impl Send for State {}

/// A set of threads that run the parts of one job at a time; the calling thread is one of them.
pub struct Pool {
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    wake: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` threads, the caller among them; at least 1 and at most
    /// [`MAX_THREADS`].
    ///
    /// # Errors
    /// If the system gives no further thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let state = Arc::new(State {
            gate: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            left: [const { Share(AtomicU64::new(0)) }; MAX_THREADS],
            asleep: [const { AtomicBool::new(false) }; MAX_THREADS],
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { state, workers: Vec::new(), wake: Vec::new() };
        for thread in 1..threads.clamp(1, MAX_THREADS) {
            let state = Arc::clone(&pool.state);
            let name = format!("dynet-{thread}");
            let worker = std::thread::Builder::new().name(name).spawn(move || state.serve(thread))?;
            pool.wake.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(part, thread)` once for each part below `parts`. Each thread has a share of consecutive parts, the
    /// same in every run of as many parts, and takes them in order: what it wrote in one run lies in its own core's
    /// cache in the next. A thread that has done its share helps others, from the end of what they have left.
    ///
    /// # Panics
    /// With the panic of a job, after all threads have left it. Above `u32::MAX` parts.
    pub fn run<F: Fn(usize, usize) + Sync>(&mut self, parts: usize, job: F) {
        self.run_on(self.threads(), parts, job);
    }

    /// [`Pool::run`] on the first `threads` threads alone, if there are as many. Each further thread costs the caller some
    /// hundred nanoseconds, so that little work is best done by few.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_on<F: Fn(usize, usize) + Sync>(&mut self, threads: usize, parts: usize, job: F) {
        let job = &job;
        let threads = threads.min(self.threads()).min(parts);
        if threads <= 1 {
            return (0..parts).for_each(|part| job(part, 0));
        }
        assert!(u32::try_from(parts).is_ok(), "{parts} parts");
        /// # Safety
        /// `data` must be a `*const F` that lives.
        unsafe fn call<F: Fn(usize, usize)>(data: *const (), part: usize, thread: usize) {
            // SAFETY: the caller's promise.
            unsafe { (*data.cast::<F>())(part, thread) }
        }
        let state = &*self.state;
        for (thread, left) in state.left.iter().take(threads).enumerate() {
            let [first, end] = [thread, thread + 1].map(|t| (t * parts / threads) as u64);
            left.0.store(end << 32 | first, Ordering::Relaxed);
        }
        let work = Work { data: std::ptr::from_ref(job).cast(), call: call::<F>, threads };
        // SAFETY: the gate is closed and nobody inside, since `finish` below waited for that in the last run.
        unsafe { *state.work.get() = Some(work) };
        // Opens the gate. SeqCst together with the flag of a worker that goes to sleep: one of both sees the other.
        let number = state.gate.load(Ordering::Relaxed) / RUN + 1;
        state.gate.store(number * RUN + threads as u64 * PART_IN + OPEN, Ordering::SeqCst);
        for (thread, handle) in self.wake.iter().enumerate().take(threads - 1) {
            if state.asleep[thread + 1].load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        // SAFETY: `job` lives until `finish` has returned.
        unsafe { state.work_through(work, 0) };
        state.finish();
        if let Some(panic) = state.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }
}

impl State {
    /// A worker's life.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        while let Some(number) = self.wait(thread, seen) {
            seen = number;
            if !self.enter(number, thread) {
                continue;
            }
            // SAFETY: inside the gate nobody writes `work`.
            if let Some(work) = unsafe { *self.work.get() } {
                // SAFETY: the run does not return, hence its closure lives, while somebody is inside.
                unsafe { self.work_through(work, thread) };
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a run that is newer than `seen`; `None` when the pool is dropped.
    fn wait(&self, thread: usize, seen: u64) -> Option<u64> {
        let newer = || {
            let number = self.gate.load(Ordering::SeqCst) / RUN;
            (number != seen).then_some(number)
        };
        loop {
            for _ in 0..SPINS {
                if self.stop.load(Ordering::Relaxed) {
                    return None;
                }
                if let Some(number) = newer() {
                    return Some(number);
                }
                spin_loop();
            }
            self.asleep[thread].store(true, Ordering::SeqCst);
            if newer().is_none() && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep[thread].store(false, Ordering::SeqCst);
        }
    }

    /// Enters the run unless it is for fewer threads or closed already: a run does not wait for a thread that comes too late.
    fn enter(&self, number: u64, thread: usize) -> bool {
        let takes_part = |gate: u64| (thread as u64) < gate % RUN / PART_IN;
        let open =
            |gate: u64| (gate / RUN == number && gate & OPEN != 0 && takes_part(gate)).then_some(gate + 1);
        self.gate.fetch_update(Ordering::Acquire, Ordering::Relaxed, open).is_ok()
    }

    /// Closes the gate and waits until nobody is inside.
    fn finish(&self) {
        self.gate.fetch_and(!OPEN, Ordering::Relaxed);
        let mut rounds = 0;
        while self.gate.load(Ordering::Acquire) & INSIDE != 0 {
            rounds += 1;
            // On a busy machine the other thread may need this core.
            if rounds % SPINS == 0 { std::thread::yield_now() } else { spin_loop() }
        }
    }

    /// Takes parts until none is left; keeps the first panic of all threads.
    ///
    /// # Safety
    /// The closure of `work` must live.
    unsafe fn work_through(&self, work: Work, thread: usize) {
        let run = || {
            while let Some(part) = self.next_part(work, thread) {
                // SAFETY: the caller's promise.
                unsafe { (work.call)(work.data, part, thread) };
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            self.left.iter().take(work.threads).for_each(|left| left.0.store(0, Ordering::Relaxed));
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// The first part that is left of the thread's own share, else the last one of another's.
    fn next_part(&self, work: Work, thread: usize) -> Option<usize> {
        let split = |left: u64| (left as u32, (left >> 32) as u32);
        let join = |first: u32, end: u32| u64::from(end) << 32 | u64::from(first);
        // Relaxed: the shares are set before the gate opens, and hold nothing but themselves.
        let take = |share: usize, next: fn(u32, u32) -> (u32, u32)| {
            let taken = self.left[share].0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                let (first, end) = split(left);
                (first < end).then(|| {
                    let (first, end) = next(first, end);
                    join(first, end)
                })
            });
            taken.ok().map(split)
        };
        if let Some((first, _)) = take(thread, |first, end| (first + 1, end)) {
            return Some(first as usize);
        }
        let others = (1..work.threads).map(|i| (thread + i) % work.threads);
        others
            .into_iter()
            .find_map(|share| take(share, |first, end| (first, end - 1)))
            .map(|(_, end)| end as usize - 1)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.wake.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs, so it ends without one.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool of {} threads", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_part_runs_once_in_every_run() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads).unwrap();
            for round in 0..300 {
                let parts = round % 40;
                let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, |part, thread| {
                    assert!(thread < threads);
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {parts} parts"
                );
                if round % 100 == 50 {
                    // Long enough for the workers to park.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
    }

    #[test]
    fn few_threads_run_what_is_for_few() {
        let mut pool = Pool::new(5).unwrap();
        for round in 0..400 {
            // Fewer each time: those that are left out are still awake.
            let (threads, parts) = (7 - round % 7, round % 40);
            let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            pool.run_on(threads, parts, |part, thread| {
                assert!(thread < threads.min(5), "thread {thread} of {threads}");
                // Long enough for the others to come and take what is left, too short for them to park.
                (0..500).for_each(|_| spin_loop());
                counts[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                "{threads} threads, {parts} parts"
            );
        }
    }

    #[test]
    fn each_thread_begins_with_its_own_share_and_in_order() {
        let mut pool = Pool::new(2).unwrap();
        let order = Mutex::new(Vec::new());
        // Each thread waits until the other one has come, so that both are at it.
        let came = [const { AtomicBool::new(false) }; 2];
        pool.run(8, |part, thread| {
            order.lock().unwrap().push((thread, part));
            came[thread].store(true, Ordering::SeqCst);
            while !came[1 - thread].load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        });
        let order = order.into_inner().unwrap();
        for thread in 0..2 {
            let own: Vec<_> = order.iter().filter(|(t, _)| *t == thread).map(|(_, part)| *part).collect();
            let share = own.iter().take_while(|part| *part / 4 == thread).count();
            assert_eq!(own[0], thread * 4, "{order:?}");
            assert!(own[..share].windows(2).all(|w| w[0] < w[1]), "{order:?}");
            assert!(own[share..].windows(2).all(|w| w[0] > w[1]), "{order:?}");
        }
    }

    #[test]
    fn a_panic_of_a_job_reaches_the_caller_and_leaves_the_pool_usable() {
        let mut pool = Pool::new(3).unwrap();
        for bad in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, |part, _| assert!(part % 17 != bad, "part {part}"));
            }));
            let text = *result.unwrap_err().downcast::<String>().unwrap();
            assert!(text.starts_with("part "), "{text}");
            let sum = AtomicUsize::new(0);
            pool.run(10, |part, _| {
                sum.fetch_add(part, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }
}
