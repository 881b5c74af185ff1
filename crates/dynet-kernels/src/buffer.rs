//! Memory that starts on a cache line, in huge pages where it is large.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A cache line: 64 bytes, also the alignment of an AVX-512 register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

const LINE_BYTES: usize = 64;

/// A huge page of x86-64, and of ARM with pages of 4 KiB.
const HUGE_BYTES: usize = 2 << 20;

/// Memory that weights are packed into, one after the other: most of a net's layers are smaller than a huge page.
const SHARED_BYTES: usize = 64 << 20;

/// A value whose bytes may be anything and which needs no destructor.
///
/// # Safety
/// All bit patterns are values, zero among them; 64 is a multiple of the size and of the alignment.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: plain numbers of 1, 2 and 4 bytes.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// One piece of memory of the system's.
///
/// From half a huge page on it is whole huge pages, and the system is asked to make them so. With pages of 4 KiB a core of a
/// Zen 4 reads 18 to 22 GB/s from memory, with huge ones 30 to 37: the hardware reads ahead across the border of a page
/// only if it knows the next one.
struct Memory {
    start: NonNull<Line>,
    layout: Layout,
}

// SAFETY: the memory is no thread's own.
unsafe impl Send for Memory {}
// SAFETY: a `Memory` itself reads and writes nothing; each `Buffer` has lines of its own.
unsafe impl Sync for Memory {}

impl Memory {
    /// Uninitialised memory of at least `len` bytes, which must not be none.
    fn new(len: usize) -> Arc<Self> {
        let page = if len >= HUGE_BYTES / 2 { HUGE_BYTES } else { LINE_BYTES };
        let layout = Layout::from_size_align(len, page).map(|l| l.pad_to_align()).ok();
        let layout = layout.filter(|l| l.size() > 0).expect("memory of a size that an address space has");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start.cast()) else { handle_alloc_error(layout) };
        if page == HUGE_BYTES {
            ask_for_huge_pages(start, layout.size());
        }
        Arc::new(Self { start, layout })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and no buffer is left that uses it.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

/// A hint: without huge pages everything works, only slower.
fn ask_for_huge_pages(start: NonNull<Line>, len: usize) {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: whole pages of an allocation; the advice changes no value.
    unsafe {
        libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE);
    }
    let _ = (start, len);
}

/// Where the next weights are packed: memory and how much of it is used.
static SHARED: Mutex<(Weak<Memory>, usize)> = Mutex::new((Weak::new(), 0));

/// A slice that owns its memory and starts on a cache line, so that no register's load straddles two.
pub struct Buffer<T> {
    start: NonNull<Line>,
    len: usize,
    /// None for no bytes.
    memory: Option<Arc<Memory>>,
    of: std::marker::PhantomData<T>,
}

// SAFETY: its lines are this buffer's alone, and `Plain` values may go anywhere.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above; a shared buffer is only read.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let bytes = Self::len_bytes(len);
        if bytes == 0 {
            return Self { start: NonNull::dangling(), len: 0, memory: None, of: std::marker::PhantomData };
        }
        Self::in_memory(Memory::new(bytes), 0, len)
    }

    /// `len` zeros behind those of the last such call, in the same huge pages: for what lives and is given back together.
    pub fn zeroed_together(len: usize) -> Self {
        let bytes = Self::len_bytes(len);
        // With debug assertions each buffer is memory of its own, so that a sanitizer sees where it ends.
        if bytes == 0 || bytes > SHARED_BYTES / 2 || cfg!(debug_assertions) {
            return Self::zeroed(len);
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, used) = match shared.0.upgrade() {
            Some(memory) if shared.1 + bytes <= SHARED_BYTES => (memory, shared.1),
            _ => (Memory::new(SHARED_BYTES), 0),
        };
        *shared = (Arc::downgrade(&memory), used + bytes);
        Self::in_memory(memory, used, len)
    }

    /// Bytes of the lines that `len` values take.
    fn len_bytes(len: usize) -> usize {
        let lines = len.div_ceil(LINE_BYTES / size_of::<T>());
        lines.checked_mul(LINE_BYTES).expect("a buffer of a size that an address space has")
    }

    /// `len` zeros from byte `at` of a memory on, which must be free.
    fn in_memory(memory: Arc<Memory>, at: usize, len: usize) -> Self {
        let bytes = Self::len_bytes(len);
        assert!(at.is_multiple_of(LINE_BYTES) && at + bytes <= memory.layout.size(), "{at} + {bytes} bytes");
        // SAFETY: the lines lie within the memory, and nobody else has them.
        let start = unsafe {
            let start = memory.start.byte_add(at);
            start.as_ptr().cast::<u8>().write_bytes(0, bytes);
            start
        };
        Self { start, len, memory: Some(memory), of: std::marker::PhantomData }
    }
}

impl<T: Plain> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl<T: Plain> From<&[T]> for Buffer<T> {
    fn from(values: &[T]) -> Self {
        let mut buffer = Self::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` values, initialised bytes are values of a `Plain` type.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as `deref`; the borrow of `self` is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain + std::fmt::Debug> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shares = self.memory.as_ref().is_some_and(|m| Arc::strong_count(m) > 1);
        let shares = if shares { ", sharing its memory" } else { "" };
        write!(f, "Buffer of {} x {}{shares}", self.len, std::any::type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_lines_and_do_not_meet() {
        let sizes = [0, 1, 15, 16, 17, 5000, 300_000, HUGE_BYTES];
        let mut buffers: Vec<Buffer<f32>> =
            sizes.iter().flat_map(|&len| [Buffer::zeroed(len), Buffer::zeroed_together(len)]).collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.as_ptr() as usize % LINE_BYTES, 0, "{buffer:?}");
            assert!(buffer.iter().all(|x| *x == 0.0), "{buffer:?} {i}");
            buffer.fill(i as f32);
        }
        let copies = buffers.clone();
        buffers.remove(3);
        for (i, copy) in copies.iter().enumerate() {
            assert!(copy.iter().all(|x| *x == i as f32), "buffer {i}");
        }
        for (i, buffer) in buffers.iter().enumerate() {
            let i = if i < 3 { i } else { i + 1 };
            assert!(buffer.iter().all(|x| *x == i as f32), "buffer {i}");
        }
    }

    #[test]
    fn memory_that_is_packed_full_is_followed_by_more() {
        let len = SHARED_BYTES / 4 / 3;
        let buffers: Vec<Buffer<f32>> = (0..5).map(|_| Buffer::zeroed_together(len)).collect();
        let mut starts: Vec<_> = buffers.iter().map(|b| b.as_ptr() as usize).collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 4 * len), "{starts:?}");
    }
}
