//! Sums over runs of the pixels of a tile.

use crate::shared::Tile;

/// Where a kernel adds up what it stores in a tile: pixel `i` receives the sums over the tile's pixels `i * every..(i + 1) * every`,
/// a value a channel.
///
/// The bits of a run's sums depend on its pixels alone, so that a map has the same sums however it is cut into tiles, as long as
/// these start with a run.
#[derive(Debug)]
pub struct Sums<'a> {
    tile: Tile<'a>,
    every: usize,
}

impl<'a> Sums<'a> {
    /// Runs of `every` pixels; `tile` has a pixel for each and the channels of the tile whose values are added up.
    ///
    /// # Panics
    /// If `every` is 0.
    pub fn new(tile: Tile<'a>, every: usize) -> Self {
        assert!(every > 0, "sums over runs of no pixels");
        Self { tile, every }
    }

    /// Those of channels `start..start + len`.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn columns(&mut self, start: usize, len: usize) -> Sums<'_> {
        Sums { tile: self.tile.columns(start, len), every: self.every }
    }

    /// That there is a pixel for each run of the pixels of a tile `of` a map of which `unit` pixels stay together.
    ///
    /// # Panics
    /// If not, or if it has several runs that are no multiple of them.
    pub(crate) fn check(&self, of: &Tile<'_>, unit: usize) {
        let runs = of.pixels().div_ceil(self.every).max(1);
        let fits = [self.tile.pixels(), self.tile.channels()] == [runs, of.channels()];
        assert!(fits, "sums of another shape: {self:?} of {of:?}");
        assert!(runs == 1 || self.every.is_multiple_of(unit), "runs of {} pixels, not of {unit}", self.every);
    }

    /// Zeros.
    ///
    /// # Panics
    /// As [`Self::check`].
    pub(crate) fn start(&mut self, of: &Tile<'_>, unit: usize) {
        self.check(of, unit);
        (0..self.tile.pixels()).for_each(|run| self.tile.row(run).fill(0.0));
    }

    /// Its memory from channel `channel` on.
    pub(crate) fn rows(&mut self, channel: usize) -> SumRows {
        let channels = self.tile.channels();
        assert!(channel <= channels, "sums from channel {channel} on of {channels}");
        // Of the tile and not of one of its rows: kernels reach all of them from here.
        let at = self.tile.as_mut_ptr().wrapping_add(channel);
        SumRows { at, ld: self.tile.ld(), every: self.every }
    }

    /// The runs of a tile, each with the memory of its sums.
    pub(crate) fn each(&mut self, of: &mut Tile<'_>, mut run: impl FnMut(&mut Tile<'_>, &mut [f32])) {
        for i in 0..self.tile.pixels() {
            let first = i * self.every;
            let mut some = of.rows(first, self.every.min(of.pixels() - first));
            run(&mut some, self.tile.row(i));
        }
    }
}

/// The memory of [`Sums`], for kernels: a row of sums for each run of pixels.
#[derive(Clone, Copy)]
pub(crate) struct SumRows {
    /// At the first run; null if nothing is added up.
    pub(crate) at: *mut f32,
    ld: usize,
    /// Pixels of a run.
    pub(crate) every: usize,
}

impl SumRows {
    pub(crate) const NONE: Self = Self { at: std::ptr::null_mut(), ld: 0, every: usize::MAX };

    /// Those of a tile from channel `channel` on.
    pub(crate) fn of(sums: &mut Option<Sums<'_>>, channel: usize) -> Self {
        sums.as_mut().map_or(Self::NONE, |sums| sums.rows(channel))
    }

    #[inline(always)]
    pub(crate) fn is_none(&self) -> bool {
        self.at.is_null()
    }

    /// Those from channel `channel` on.
    #[inline(always)]
    pub(crate) fn columns(self, channel: usize) -> Self {
        if self.is_none() { self } else { Self { at: self.at.wrapping_add(channel), ..self } }
    }

    /// Values from the sums of one run of `every` pixels to those of the next; 0 where one run has all `pixels` pixels.
    ///
    /// # Panics
    /// If there are several runs of another length.
    pub(crate) fn step(&self, every: usize, pixels: usize) -> usize {
        if self.every >= pixels {
            return 0;
        }
        assert_eq!(self.every, every, "pixels of a run of sums");
        self.ld
    }

    /// Those of the runs behind the first `pixels` pixels, which are whole runs or part of one.
    #[inline(always)]
    pub(crate) fn after(self, pixels: usize) -> Self {
        Self { at: self.at.wrapping_add(pixels / self.every * self.ld), ..self }
    }
}
