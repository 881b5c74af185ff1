//! One output that several threads fill, each tile by one of them.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How an output `[images][pixels][ld]` is cut into tiles.
///
/// A tile is a run of pixels of one image times a run of channels. Channels from `channels` up to `ld`
/// belong to no tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Images, or 1 to see the pixels of a batch as those of one image.
    pub images: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Channels of a pixel that are written.
    pub channels: usize,
    /// Values from one pixel to the next, at least `channels`.
    pub ld: usize,
    /// Pixels of a tile; the last tile of an image may have fewer.
    pub pixel_block: usize,
    /// Channels of a tile; the last one may have fewer.
    pub channel_block: usize,
}

impl Grid {
    /// Tiles along the pixels of an image.
    pub fn pixel_blocks(&self) -> usize {
        self.pixels.div_ceil(self.pixel_block)
    }

    /// Tiles along the channels.
    pub fn channel_blocks(&self) -> usize {
        self.channels.div_ceil(self.channel_block)
    }

    /// All tiles.
    pub fn tiles(&self) -> usize {
        self.images * self.pixel_blocks() * self.channel_blocks()
    }

    /// Image, pixel block and channel block of tile `index`, channel blocks fastest.
    pub fn position(&self, index: usize) -> [usize; 3] {
        let (row, channel) = (index / self.channel_blocks(), index % self.channel_blocks());
        [row / self.pixel_blocks(), row % self.pixel_blocks(), channel]
    }
}

/// Tiles that [`SharedOut`] can tell apart.
pub const MAX_TILES: usize = 64 * WORDS;
const WORDS: usize = 64;

/// An output whose tiles are handed out once each, to any thread.
pub struct SharedOut<'a> {
    data: *mut f32,
    grid: Grid,
    taken: [AtomicU64; WORDS],
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the borrow of the data is unique, and `take` gives no value of it out twice.
unsafe impl Sync for SharedOut<'_> {}
// SAFETY: as above.
unsafe impl Send for SharedOut<'_> {}

impl<'a> SharedOut<'a> {
    /// `data[channel0..]` is the first pixel's first channel.
    ///
    /// # Panics
    /// If the grid is empty, overlaps itself, does not fit into `data` or has more than [`MAX_TILES`] tiles.
    pub fn new(data: &'a mut [f32], channel0: usize, grid: Grid) -> Self {
        assert!(grid.pixel_block > 0 && grid.channel_block > 0, "a tile of {grid:?} is empty");
        assert!(
            grid.channels + channel0 <= grid.ld,
            "channels {channel0}.. of {grid:?} run over into the next pixel"
        );
        assert!(
            grid.tiles() <= MAX_TILES,
            "{} tiles, at most {MAX_TILES} are possible: {grid:?}",
            grid.tiles()
        );
        let pixels = grid.images * grid.pixels;
        let needed = if pixels == 0 { channel0 } else { channel0 + (pixels - 1) * grid.ld + grid.channels };
        assert!(data.len() >= needed, "output has {} values, {grid:?} needs {needed}", data.len());
        // SAFETY: `channel0 <= needed <= data.len()`.
        let data = unsafe { data.as_mut_ptr().add(channel0) };
        Self { data, grid, taken: [const { AtomicU64::new(0) }; WORDS], borrow: PhantomData }
    }

    /// How it is cut.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The tile of an image at a pixel block and a channel block.
    ///
    /// # Panics
    /// If it was taken before, or does not exist.
    pub fn take(&self, image: usize, pixel_block: usize, channel_block: usize) -> Tile<'_> {
        let g = &self.grid;
        let inside = image < g.images && pixel_block < g.pixel_blocks() && channel_block < g.channel_blocks();
        assert!(inside, "no tile {image}, {pixel_block}, {channel_block} in {g:?}");
        let index = (image * g.pixel_blocks() + pixel_block) * g.channel_blocks() + channel_block;
        let bit = 1 << (index % 64);
        // Relaxed: the bit only decides who gets the tile; fork and join order the values themselves.
        let before = self.taken[index / 64].fetch_or(bit, Ordering::Relaxed);
        assert!(before & bit == 0, "tile {image}, {pixel_block}, {channel_block} is taken");
        let (pixel0, channel0) = (pixel_block * g.pixel_block, channel_block * g.channel_block);
        let first = (image * g.pixels + pixel0) * g.ld + channel0;
        Tile {
            // SAFETY: the first value of a tile of the grid, which `new` saw to lie within the data.
            data: unsafe { self.data.add(first) },
            pixel0,
            channel0,
            pixels: g.pixel_block.min(g.pixels - pixel0),
            channels: g.channel_block.min(g.channels - channel0),
            ld: g.ld,
            borrow: PhantomData,
        }
    }

    /// The tile at [`Grid::position`] of `index`.
    ///
    /// # Panics
    /// As [`SharedOut::take`].
    pub fn take_index(&self, index: usize) -> Tile<'_> {
        let [image, pixel_block, channel_block] = self.grid.position(index);
        self.take(image, pixel_block, channel_block)
    }
}

/// A run of pixels times a run of channels of an output, writable by its holder alone.
///
/// It knows its place in the image, so that kernels take the arguments of a whole layer and compute the
/// part that the tile shows them.
#[derive(Debug)]
pub struct Tile<'a> {
    data: *mut f32,
    pixel0: usize,
    channel0: usize,
    pixels: usize,
    channels: usize,
    ld: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a unique borrow of its values, as `&mut [f32]` is.
unsafe impl Send for Tile<'_> {}

impl<'a> Tile<'a> {
    /// A whole output `[pixels][ld]` of one image as one tile.
    ///
    /// # Panics
    /// If `data` is shorter or `ld` less than `channels`.
    pub fn whole(data: &'a mut [f32], pixels: usize, channels: usize, ld: usize) -> Self {
        assert!(channels <= ld, "{channels} channels do not fit into pixels of {ld} values");
        let needed = if pixels == 0 { 0 } else { (pixels - 1) * ld + channels };
        assert!(data.len() >= needed, "output has {} values, {needed} needed", data.len());
        Self { data: data.as_mut_ptr(), pixel0: 0, channel0: 0, pixels, channels, ld, borrow: PhantomData }
    }

    /// Some pixels and channels of an output, in memory of their own: `[pixels][ld]`.
    ///
    /// # Panics
    /// As [`Tile::whole`].
    pub fn part(data: &'a mut [f32], pixels: Range<usize>, channels: Range<usize>, ld: usize) -> Self {
        let whole = Self::whole(data, pixels.len(), channels.len(), ld);
        Self { pixel0: pixels.start, channel0: channels.start, ..whole }
    }

    /// The same memory for a shorter time.
    pub fn reborrow(&mut self) -> Tile<'_> {
        Tile { borrow: PhantomData, ..*self }
    }

    /// Channels `start..start + len` of it.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn columns(&mut self, start: usize, len: usize) -> Tile<'_> {
        assert!(start + len <= self.channels, "channels {start}..{} of {}", start + len, self.channels);
        // SAFETY: within the tile, or one past its last value if `len` is 0.
        let data = unsafe { self.data.add(start) };
        Tile { data, channel0: self.channel0 + start, channels: len, borrow: PhantomData, ..*self }
    }

    /// Pixels `start..start + len` of it.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn rows(&mut self, start: usize, len: usize) -> Tile<'_> {
        assert!(start + len <= self.pixels, "pixels {start}..{} of {}", start + len, self.pixels);
        let skip = if len == 0 { 0 } else { start * self.ld };
        // SAFETY: the first value of pixel `start`, which exists unless the run is empty.
        let data = unsafe { self.data.add(skip) };
        Tile { data, pixel0: self.pixel0 + start, pixels: len, borrow: PhantomData, ..*self }
    }

    /// Its channels of pixel `i` of it.
    ///
    /// # Panics
    /// If it has fewer pixels.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.pixels, "pixel {i} of {}", self.pixels);
        // SAFETY: `channels` values of an existing pixel, borrowed as long as `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.ld), self.channels) }
    }

    /// All of its values as one slice, if no gap lies between its pixels.
    pub fn contiguous(&mut self) -> Option<&mut [f32]> {
        if self.ld != self.channels {
            return None;
        }
        // SAFETY: pixels of `channels` values behind one another, borrowed as long as `self` is.
        Some(unsafe { std::slice::from_raw_parts_mut(self.data, self.pixels * self.channels) })
    }

    /// First pixel, counted within the image.
    pub fn pixel0(&self) -> usize {
        self.pixel0
    }

    /// First channel, counted within the output.
    pub fn channel0(&self) -> usize {
        self.channel0
    }

    /// Pixels.
    pub fn pixels(&self) -> usize {
        self.pixels
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Values from one pixel to the next.
    pub fn ld(&self) -> usize {
        self.ld
    }

    /// One past its last pixel.
    ///
    /// # Panics
    /// If it is not whole rows of an output of some rows and columns.
    pub(crate) fn check_rows(&self, [height, width]: [usize; 2]) -> usize {
        let end = self.pixel0 + self.pixels;
        let whole = end <= height * width
            && (self.pixels == 0 || [self.pixel0, end].iter().all(|p| p.is_multiple_of(width)));
        assert!(whole, "pixels {}..{end} are no whole rows of {height} x {width}", self.pixel0);
        end
    }

    /// First pixel, pixels, first channel, channels.
    pub(crate) fn place(&self) -> [usize; 4] {
        [self.pixel0, self.pixels, self.channel0, self.channels]
    }

    /// Address of its first value.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }
}

/// Threads that [`PerThread`] can tell apart.
pub const MAX_THREADS: usize = 64;

/// Scratch memory of which each thread has a piece of its own.
pub struct PerThread<'a> {
    data: *mut f32,
    len: usize,
    threads: usize,
    busy: [AtomicBool; MAX_THREADS],
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the borrow of the data is unique, and a piece is lent to one holder at a time.
unsafe impl Sync for PerThread<'_> {}
// SAFETY: as above.
unsafe impl Send for PerThread<'_> {}

impl<'a> PerThread<'a> {
    /// Cuts `data` into one piece of equal size for each thread, each starting on a cache line if `data` does.
    ///
    /// # Panics
    /// For no threads or more than [`MAX_THREADS`].
    pub fn new(data: &'a mut [f32], threads: usize) -> Self {
        assert!((1..=MAX_THREADS).contains(&threads), "{threads} threads, 1 to {MAX_THREADS} are possible");
        // 16 values = one cache line.
        let len = if threads == 1 { data.len() } else { data.len() / threads / 16 * 16 };
        let busy = [const { AtomicBool::new(false) }; MAX_THREADS];
        Self { data: data.as_mut_ptr(), len, threads, busy, borrow: PhantomData }
    }

    /// Values that `threads` pieces of at least `len` need.
    pub fn size(len: usize, threads: usize) -> usize {
        len.next_multiple_of(16) * threads
    }

    /// The piece of a thread, until the guard is dropped.
    ///
    /// # Panics
    /// If the thread does not exist or its piece is lent already.
    pub fn take(&self, thread: usize) -> Piece<'_> {
        assert!(thread < self.threads, "thread {thread} of {}", self.threads);
        let busy = &self.busy[thread];
        assert!(!busy.swap(true, Ordering::Acquire), "scratch of thread {thread} is lent");
        // SAFETY: `threads` pieces of `len` values fit; the flag keeps others out until the guard is dropped.
        let data = unsafe { std::slice::from_raw_parts_mut(self.data.add(thread * self.len), self.len) };
        Piece { data, busy }
    }
}

/// One thread's scratch; gives it back when dropped.
pub struct Piece<'a> {
    data: &'a mut [f32],
    busy: &'a AtomicBool,
}

impl std::ops::Deref for Piece<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.data
    }
}

impl std::ops::DerefMut for Piece<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.data
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { images: 2, pixels: 5, channels: 7, ld: 9, pixel_block: 2, channel_block: 4 };

    #[test]
    fn tiles_cover_every_channel_once_and_nothing_else() {
        let mut data = vec![0.0; 2 * 5 * 9];
        {
            let out = SharedOut::new(&mut data, 1, GRID);
            for index in 0..GRID.tiles() {
                let mut tile = out.take_index(index);
                for i in 0..tile.pixels() {
                    tile.row(i).iter_mut().for_each(|x| *x += 1.0);
                }
            }
        }
        for (i, x) in data.iter().enumerate() {
            assert_eq!(*x, if (1..8).contains(&(i % 9)) { 1.0 } else { 0.0 }, "value {i}");
        }
    }

    #[test]
    #[should_panic(expected = "tile 1, 2, 0 is taken")]
    fn a_tile_is_handed_out_once() {
        let mut data = vec![0.0; 90];
        let out = SharedOut::new(&mut data, 0, GRID);
        let _first = out.take(1, 2, 0);
        let _second = out.take(1, 2, 0);
    }

    #[test]
    #[should_panic(expected = "needs 88")]
    fn an_output_that_is_too_short_is_refused() {
        SharedOut::new(&mut [0.0; 87], 0, GRID);
    }

    #[test]
    #[should_panic(expected = "scratch of thread 1 is lent")]
    fn scratch_is_lent_to_one_holder() {
        let mut data = vec![0.0; 64];
        let scratch = PerThread::new(&mut data, 2);
        drop(scratch.take(1));
        let _first = scratch.take(1);
        let _second = scratch.take(1);
    }
}
