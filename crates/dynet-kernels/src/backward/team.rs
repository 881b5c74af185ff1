//! Threads with scratch memory of their own.

use crate::buffer::Buffer;
use crate::isa::Isa;
use crate::pool::Pool;

/// A pool of threads, an instruction set, and scratch memory that stays between jobs.
#[derive(Debug)]
pub struct Team {
    pub(crate) isa: Isa,
    pool: Pool,
    local: Vec<Buffer<f32>>,
    shared: Buffer<f32>,
}

impl Team {
    /// A team of `threads` threads, the caller among them.
    ///
    /// # Errors
    /// If the system gives no further thread.
    pub fn new(isa: Isa, threads: usize) -> std::io::Result<Self> {
        let pool = Pool::new(threads)?;
        let local = (0..pool.threads()).map(|_| Buffer::zeroed(0)).collect();
        Ok(Self { isa, pool, local, shared: Buffer::zeroed(0) })
    }

    /// Threads, the caller among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `job(part, scratch)` once for each part, with `scratch` values of the thread's own that hold anything.
    pub(crate) fn run(&mut self, parts: usize, scratch: usize, job: impl Fn(usize, &mut [f32]) + Sync) {
        for local in self.local.iter_mut().filter(|l| l.len() < scratch) {
            *local = Buffer::zeroed(scratch);
        }
        let local: Vec<Raw> = self.local.iter_mut().map(|l| Raw::of(l)).collect();
        self.pool.run(parts, |part, thread| {
            // SAFETY: a thread runs one part at a time and is alone with its buffer, which has `scratch` values.
            job(part, unsafe { local[thread].slice(0, scratch) });
        });
    }

    /// Calls `job(i, chunk)` for each run of `len` values of `data`; the last one may be shorter.
    pub fn chunks(&mut self, data: &mut [f32], len: usize, job: impl Fn(usize, &mut [f32]) + Sync) {
        let (total, len) = (data.len(), len.max(1));
        let data = Raw::of(data);
        self.run(total.div_ceil(len), 0, |part, _| {
            let start = part * len;
            // SAFETY: chunks of different parts do not overlap.
            job(part, unsafe { data.slice(start, len.min(total - start)) });
        });
    }

    /// [`Self::chunks`] of two slices that are cut into the same number of chunks.
    ///
    /// # Panics
    /// If they are not.
    pub fn chunks2(
        &mut self,
        [a, b]: [&mut [f32]; 2],
        [len_a, len_b]: [usize; 2],
        job: impl Fn(usize, [&mut [f32]; 2]) + Sync,
    ) {
        let parts = a.len().div_ceil(len_a.max(1));
        assert_eq!(parts, b.len().div_ceil(len_b.max(1)), "two slices are cut into as many chunks");
        let (total_a, total_b) = (a.len(), b.len());
        let (a, b) = (Raw::of(a), Raw::of(b));
        self.run(parts, 0, |part, _| {
            let (x, y) = (part * len_a, part * len_b);
            // SAFETY: chunks of different parts do not overlap.
            job(part, unsafe { [a.slice(x, len_a.min(total_a - x)), b.slice(y, len_b.min(total_b - y))] });
        });
    }

    /// Borrows the shared scratch memory away, at least `len` values that hold anything; give it back with
    /// [`Self::put_back`].
    pub(crate) fn take_shared(&mut self, len: usize) -> Buffer<f32> {
        let shared = std::mem::replace(&mut self.shared, Buffer::zeroed(0));
        if shared.len() < len { Buffer::zeroed(len) } else { shared }
    }

    /// Ends [`Self::take_shared`].
    pub(crate) fn put_back(&mut self, shared: Buffer<f32>) {
        self.shared = shared;
    }
}

/// A slice that the parts of a job share, each its own values.
#[derive(Clone, Copy)]
pub(crate) struct Raw(*mut f32);

// SAFETY: a pointer by itself; who turns it into a slice answers for the values.
unsafe impl Sync for Raw {}
// SAFETY: as above.
unsafe impl Send for Raw {}

impl Raw {
    pub(crate) fn of(data: &mut [f32]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// The address of value `i`, which need not exist.
    pub(crate) fn at(self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }

    /// The slice from value `i` on.
    pub(crate) fn offset(self, i: usize) -> Self {
        Self(self.at(i))
    }

    /// # Safety
    /// The values must exist and be the caller's alone for as long as the slice lives.
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(start), len) }
    }
}
