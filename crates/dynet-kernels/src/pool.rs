//! A fork-join pool of threads whose fork and join cost about a microsecond.
//!
//! It lives here and not in the engine because it hands a borrowed closure to threads that outlive it,
//! which takes `unsafe`. Workers spin for a while after a job, then park.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    parts: usize,
    /// Whether thread `t` looks at part `t` first.
    pinned: bool,
}

/// `gate` holds the number of the run in its upper bits, whether threads may still enter, and how many are inside.
const OPEN: u64 = 1 << 8;
const INSIDE: u64 = OPEN - 1;
const RUN: u64 = OPEN << 1;

struct State {
    gate: AtomicU64,
    work: UnsafeCell<Option<Work>>,
    next: AtomicUsize,
    /// Parts that are taken, in pinned runs.
    taken: AtomicU64,
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
            next: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
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

    /// Calls `job(part, thread)` once for each part below `parts`, each part on the next free thread.
    ///
    /// # Panics
    /// With the panic of a job, after all threads have left it.
    pub fn run<F: Fn(usize, usize) + Sync>(&mut self, parts: usize, job: F) {
        self.start(parts, false, &job);
    }

    /// Calls `job(part, thread)` once for each thread's part, `part == thread` wherever that thread shows up
    /// before another one has nothing left to do.
    ///
    /// # Panics
    /// With the panic of a job, after all threads have left it.
    pub fn run_pinned<F: Fn(usize, usize) + Sync>(&mut self, job: F) {
        self.start(self.threads(), true, &job);
    }

    fn start<F: Fn(usize, usize) + Sync>(&mut self, parts: usize, pinned: bool, job: &F) {
        if self.workers.is_empty() || parts <= 1 {
            return (0..parts).for_each(|part| job(part, 0));
        }
        /// # Safety
        /// `data` must be a `*const F` that lives.
        unsafe fn call<F: Fn(usize, usize)>(data: *const (), part: usize, thread: usize) {
            // SAFETY: the caller's promise.
            unsafe { (*data.cast::<F>())(part, thread) }
        }
        let state = &*self.state;
        state.next.store(0, Ordering::Relaxed);
        state.taken.store(0, Ordering::Relaxed);
        let work = Work { data: std::ptr::from_ref(job).cast(), call: call::<F>, parts, pinned };
        // SAFETY: the gate is closed and nobody inside, since `finish` below waited for that in the last run.
        unsafe { *state.work.get() = Some(work) };
        // Opens the gate. SeqCst together with the flag of a worker that goes to sleep: one of both sees the other.
        let number = state.gate.load(Ordering::Relaxed) / RUN + 1;
        state.gate.store(number * RUN + OPEN, Ordering::SeqCst);
        for (thread, handle) in self.wake.iter().enumerate().take(parts - 1) {
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
            if !self.enter(number) {
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

    /// Enters the run unless it is closed already: a run does not wait for a thread that comes too late.
    fn enter(&self, number: u64) -> bool {
        let open = |gate: u64| (gate / RUN == number && gate & OPEN != 0).then_some(gate + 1);
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
            self.next.store(work.parts, Ordering::Relaxed);
            self.taken.store(!0, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    fn next_part(&self, work: Work, thread: usize) -> Option<usize> {
        if !work.pinned {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            return (part < work.parts).then_some(part);
        }
        let order = std::iter::once(thread).chain(0..work.parts);
        order.into_iter().find(|&part| {
            let bit = 1 << part;
            self.taken.load(Ordering::Relaxed) & bit == 0
                && self.taken.fetch_or(bit, Ordering::Relaxed) & bit == 0
        })
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
                let pinned: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run_pinned(|part, _| {
                    pinned[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(pinned.iter().all(|c| c.load(Ordering::Relaxed) == 1), "pinned, {threads} threads");
                if round % 100 == 50 {
                    // Long enough for the workers to park.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
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
