//! Memory that starts on a cache line.

use std::ops::{Deref, DerefMut};

/// A cache line: 64 bytes, also the alignment of an AVX-512 register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

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

/// A slice that owns its memory and starts on a cache line, so that no register's load straddles two.
#[derive(Clone)]
pub struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let lines = len.div_ceil(64 / size_of::<T>());
        Self { lines: vec![Line([0; 64]); lines], len, of: std::marker::PhantomData }
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
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as `deref`; the borrow of `self` is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Plain + std::fmt::Debug> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} x {}", self.len, std::any::type_name::<T>())
    }
}
