//! Feature maps whose memory is used again, within a step and in the next one.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use dynet_kernels::Buffer;

/// A map may lie in memory that is this much larger than it needs.
const SLACK: usize = 2;

/// Values of a map; give it back to the [`Arena`] it came from.
#[derive(Debug)]
pub(super) struct Map {
    buffer: Buffer<f32>,
    len: usize,
}

impl Deref for Map {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Map {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

/// Memory that no map uses, by its length.
#[derive(Debug, Default)]
pub(super) struct Arena {
    free: BTreeMap<usize, Vec<Buffer<f32>>>,
}

impl Arena {
    /// A map of `len` values that hold anything.
    pub(super) fn take(&mut self, len: usize) -> Map {
        let fit = self.free.range(len..=len * SLACK).next().map(|(size, _)| *size);
        let buffer = fit.and_then(|size| {
            let list = self.free.get_mut(&size)?;
            let buffer = list.pop();
            if list.is_empty() {
                self.free.remove(&size);
            }
            buffer
        });
        Map { buffer: buffer.unwrap_or_else(|| Buffer::zeroed(len)), len }
    }

    /// A map of zeros.
    pub(super) fn zeros(&mut self, len: usize) -> Map {
        let mut map = self.take(len);
        map.fill(0.0);
        map
    }

    /// Takes a map's memory back.
    pub(super) fn give(&mut self, map: Map) {
        self.free.entry(map.buffer.len()).or_default().push(map.buffer);
    }
}
