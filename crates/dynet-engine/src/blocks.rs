//! How a layer's output is cut into tiles: by pixels and by output channels.

use dynet_kernels::shared::{MAX_THREADS, MAX_TILES};
use dynet_kernels::{Geometry, Grid};

/// Most values of input that a block of pixels reads, 1 MiB: what does not stay in the second-level cache comes from the
/// last one in order, which costs less than to fuse each panel once more for one more block. Four times as many are no
/// faster; a quarter made ResNet50 with K = 4 slower by a tenth.
const BLOCK_VALUES: usize = 262_144;
/// Pixels that reading one fixed kernel of a panel is worth: 128 bytes a row at some 16 bytes a cycle, while a row of
/// the panel is multiplied with one pixel in a cycle.
const EXPERT_PIXELS: usize = 8;
/// Cycles for a value that another core wrote last: it comes from that core's cache, a few lines at a time, while one of its own is
/// read for nothing beside the product. Reading maps of 14 x 14 pixels of 116 channels took 4, long rows of ResNet50 1.3 (a Sapphire Rapids).
const FOREIGN_CYCLES: usize = 2;
/// Cycles for half a row of a panel of one fixed kernel, 64 bytes, that comes from memory: what of it is not hidden.
const MEMORY_CYCLES: usize = 4;
/// Fewest pixels of a block: nearly two tiles of registers.
const LEAST: usize = 24;
/// Tiles of one image; a batch is cut into pieces that fit [`MAX_TILES`].
pub(crate) const IMAGE_TILES: usize = MAX_TILES / MAX_IMAGES;
/// Images that run through a layer together.
pub(crate) const MAX_IMAGES: usize = 16;
/// Pixels of a map that a tile computes for itself, one panel wide: 128 or 256 KiB, a quarter of a second-level cache.
const PART_PIXELS: usize = 2048;
/// Rows that windows compute at once, and over which they add up what they store.
pub(crate) const SUM_ROWS: usize = 2;
/// Most runs of the pixels of a product's output that are added up by themselves.
const MAX_RUNS: usize = 64;
/// Values of the part of a map that a product of bfloat16 computes for a tile of several panels, 512 KiB.
const BF16_PART: usize = 128 << 10;
/// Most values of a tile's pixels when they are laid out as bfloat16, 768 KiB: they stay in the second-level cache while panel
/// after panel is multiplied with them.
const BF16_VALUES: usize = 384 << 10;
/// Most outputs of a tile that is not cut by channels, 1 MiB: each panel writes some lines of each pixel, the next one its
/// neighbours.
const BF16_OUTPUTS: usize = 256 << 10;

/// Cuts layers for a number of threads.
///
/// The cuts show in no bit of the logits: a layer that adds up its output does so over runs of pixels that do not depend on them, and
/// its tiles have whole runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    /// As many as tiles are to be shared by: at least two, which costs a single one next to nothing.
    threads: usize,
    /// Whether there is more than one.
    shared: bool,
}

/// What a layer reads and multiplies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    /// Output pixels.
    pub(crate) pixels: usize,
    /// Values of input that each of them reads and its neighbours do not.
    pub(crate) values: usize,
    /// Whether a panel reads channels of its own alone.
    pub(crate) by_channel: bool,
    /// Rows of a panel.
    pub(crate) terms: usize,
    /// Half panels of output channels.
    pub(crate) halves: usize,
    /// Fixed kernels that each panel is the sum of; 0: static.
    pub(crate) experts: usize,
    /// Pixels that stay together.
    pub(crate) row: usize,
}

impl Blocks {
    /// For `threads` threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: threads.clamp(2, MAX_THREADS), shared: threads > 1 }
    }

    /// Of a map of `pixels` pixels, of which each thread wrote its share, those that a thread reads of others' shares when `blocks` blocks
    /// of them with `panels` tiles each are shared out in order: the most that a thread has.
    fn foreign(self, blocks: usize, panels: usize, pixels: usize) -> usize {
        let (tiles, block) = (blocks * panels, pixels.div_ceil(blocks));
        let share = |len: usize, thread: usize| [thread, thread + 1].map(|t| t * len / self.threads);
        let of = |thread: usize| {
            let ([first, end], [from, to]) = (share(tiles, thread), share(pixels, thread));
            let read = [first / panels * block, (end.div_ceil(panels) * block).min(pixels)];
            let own = read[1].min(to).saturating_sub(read[0].max(from));
            if first < end { read[1].saturating_sub(read[0]) - own } else { 0 }
        };
        if self.shared { (0..self.threads).map(of).max().unwrap_or(0) } else { 0 }
    }

    /// What a layer takes that is cut into `tiles` tiles of `each`: what all threads take and what one takes count alike, that
    /// is the slowest thread's time for each thread, and the time of all tiles.
    fn time(self, tiles: usize, each: usize) -> usize {
        (self.threads * tiles.div_ceil(self.threads) + tiles) * each
    }

    /// Pixels of a tile for a layer, whole rows of it.
    pub(crate) fn pixel_block(self, layer: Layer) -> usize {
        let Layer { pixels, values, by_channel, terms, halves, experts, row } = layer;
        let (rows, threads) = (pixels.div_ceil(row), self.threads);
        let panels = halves.div_ceil(2);
        let fuse = experts * EXPERT_PIXELS + 2;
        let read = if by_channel { values.div_ceil(threads) } else { values };
        // What a thread waits for, in half cycles for each row of a panel: what others wrote, and its part of the weights.
        let waits = |blocks: usize| {
            let foreign = self.foreign(blocks, panels, pixels) * FOREIGN_CYCLES * read / terms.max(1);
            let weights = halves.min((halves * blocks).div_ceil(threads)) * experts.max(1) * MEMORY_CYCLES;
            if self.shared { 2 * (foreign + weights) } else { 0 }
        };
        // As `time`, in half panels and thereby half cycles. A thread reads each of its blocks from afar once, which is a quarter of a
        // panel's work.
        let time = |blocks: usize| {
            let [whole, half] = [halves / 2 * blocks, halves % 2 * blocks];
            let all = 2 * whole + half;
            let slower = (2 * whole.div_ceil(threads)).max(all.div_ceil(threads));
            let block = rows.div_ceil(blocks) * row;
            (threads * slower + all) * (fuse + block)
                + blocks.div_ceil(threads) * block
                + 2 * threads * waits(blocks)
        };
        let least = (pixels * values).div_ceil(BLOCK_VALUES).clamp(1, rows);
        let most = (pixels / LEAST).clamp(least, least.max(32)).min(rows);
        let best = (least..=most).min_by_key(|&blocks| (time(blocks), blocks)).unwrap_or(least);
        // No more tiles than an image may have.
        let best = best.min((IMAGE_TILES / panels.min(IMAGE_TILES)).max(1));
        (rows.div_ceil(best) * row).min(pixels)
    }

    /// Channels of a tile: one panel, or as many as keep an image's tiles within bounds. Where all pixels are one block,
    /// some panels where that leaves each thread as many tiles: while one is multiplied the next is read ahead.
    pub(crate) fn channel_block(self, channels: usize, nr: usize, pixel_blocks: usize) -> usize {
        let most = (IMAGE_TILES / pixel_blocks.max(1)).max(1);
        let panels = channels.div_ceil(nr);
        let even =
            |some: &usize| panels.is_multiple_of(*some) && (panels / some).is_multiple_of(self.threads);
        let some = if pixel_blocks == 1 { [5, 4, 3, 2].into_iter().find(even).unwrap_or(1) } else { 1 };
        panels.div_ceil(most).max(some) * nr
    }

    /// Panels of a depthwise convolution's tile that computes what it reads, `pixels` pixels, by a product of bfloat16: as many
    /// as fit, since the product's own pixels are laid out once for all of them; `blocks` such tiles are all pixels.
    pub(crate) fn bf16_part_panels(self, pixels: usize, panels: usize, nr: usize, blocks: usize) -> usize {
        let tiles = self.threads.div_ceil(blocks);
        (BF16_PART / (pixels * nr)).clamp(1, panels.div_ceil(tiles))
    }

    /// Rows of a depthwise convolution's tile that computes what it reads, `panels` panels of sums of `terms` terms, a multiple of
    /// `unit` unless it is all of them; `None` where too many rows would be computed twice.
    pub(crate) fn window_rows(
        self,
        geometry: &Geometry,
        terms: usize,
        panels: usize,
        unit: usize,
    ) -> Option<usize> {
        let [height, width] = geometry.output();
        let whole = geometry.input[0] * geometry.input[1];
        let read = |rows: usize| rows_read(geometry, rows) * geometry.input[1];
        let fits = |rows: usize, more: usize| {
            read(rows) <= PART_PIXELS && height.div_ceil(rows) * read(rows) <= whole + more
        };
        let units = height.div_ceil(unit);
        let most = (IMAGE_TILES / panels).min(units);
        let cuts = || (1..=most).map(|blocks| (units.div_ceil(blocks) * unit).min(height));
        cuts().find(|&rows| fits(rows, whole / 6))?;
        let time = |rows: usize| {
            let blocks = height.div_ceil(rows);
            let tile = read(rows) * terms + rows * width * geometry.taps();
            let foreign = self.foreign(blocks, panels, whole) * terms * FOREIGN_CYCLES;
            (panels * blocks).div_ceil(self.threads) * tile + foreign
        };
        // What a core computes twice it need not wait for.
        let more = if self.shared { whole / 3 } else { whole / 6 };
        cuts().filter(|&rows| fits(rows, more)).min_by_key(|&rows| time(rows))
    }

    /// Rows of a tile of a pooled map that computes what it pools: one tile for each thread, since tiles share rows.
    pub(crate) fn pooled_rows(self, height: usize) -> usize {
        let tiles = if self.shared { self.threads } else { 1 };
        (height.div_ceil(SUM_ROWS).div_ceil(tiles.min(IMAGE_TILES)) * SUM_ROWS).min(height)
    }

    /// Rows and channels of a tile of Winograd's filtering for an output of `tiles` rows and columns of tiles of `side`, the rows a
    /// multiple of `side`; `channels` channels in panels of `nr`, each the sum of `experts` fixed kernels (0: static), that read strips
    /// of `strip` rows of tiles.
    pub(crate) fn winograd_tile(
        self,
        tiles: [usize; 2],
        side: usize,
        strip: usize,
        (channels, nr): (usize, usize),
        experts: usize,
    ) -> (usize, usize) {
        let panels = channels.div_ceil(nr);
        // In sixths of a tile's products with a panel: transforming its input takes two, the products six (of whole tiles of
        // registers), and for each strip kernels are read, or fused and transformed.
        let kernels = if experts > 0 { 6 * (2 * experts + 3) } else { 6 * 8 };
        let time = |rows: usize, some: usize| {
            let (count, strips) = (rows * tiles[1], rows.div_ceil(strip));
            2 * count + some * (6 * count.next_multiple_of(4) + strips * kernels)
        };
        let most = IMAGE_TILES.min(2 * self.threads);
        let cuts = (1..=tiles[0].min(most)).flat_map(|blocks| {
            let rows = tiles[0].div_ceil(blocks);
            (1..=panels.min(most)).map(move |parts| (rows, panels.div_ceil(parts)))
        });
        let possible =
            |&(rows, some): &(usize, usize)| tiles[0].div_ceil(rows) * panels.div_ceil(some) <= most;
        let cost = |&(rows, some): &(usize, usize)| {
            self.time(tiles[0].div_ceil(rows) * panels.div_ceil(some), time(rows, some))
        };
        let (rows, some) = cuts.filter(possible).min_by_key(cost).unwrap_or((tiles[0], panels));
        (rows * side, some * nr)
    }

    /// Pixels and channels of a tile of a product of bfloat16, whose pixels are laid out once for its panels: `pixels` output
    /// pixels, in whole runs of `run`, that are sums of `k` terms, for which `row` values are laid out, `channels` output channels in panels of `nr`, each the sum of `experts` fixed kernels (0: static).
    pub(crate) fn bf16_tile(
        self,
        [pixels, run]: [usize; 2],
        [k, row]: [usize; 2],
        (channels, nr): (usize, usize),
        experts: usize,
    ) -> (usize, usize) {
        let (panels, threads, runs) = (channels.div_ceil(nr), self.threads, pixels.div_ceil(run));
        let block_of = |blocks: usize| (runs.div_ceil(blocks) * run).min(pixels);
        // Cycles for a row of the weights: of tiles of AMX, of laying out pixels that come from the second-level cache, of
        // fusing what comes from memory.
        let product = |pixels: usize| pixels.div_ceil(32) * 2;
        let gather = |pixels: usize| (pixels.div_ceil(16) * 3 * row).div_ceil(k.max(1));
        let fuse = 10 * experts;
        // Panels of a tile of all pixels: so many that laying them out counts for a tenth, in tiles that threads share evenly.
        let few = (10 * gather(pixels)).div_ceil(fuse + product(pixels)).clamp(1, panels.div_ceil(threads));
        let all = panels.div_ceil((panels / few).next_multiple_of(threads));
        // Of fewer pixels all panels, unless some threads would get none.
        let some = |blocks: usize| if blocks == 1 { all } else { panels.div_ceil(threads.div_ceil(blocks)) };
        let time = |blocks: usize| {
            let (block, some) = (block_of(blocks), some(blocks));
            let tiles = (blocks * panels.div_ceil(some)).div_ceil(threads);
            tiles * (some * (fuse + product(block)) + gather(block))
        };
        let least =
            (pixels * row).div_ceil(BF16_VALUES).max((pixels * channels).div_ceil(BF16_OUTPUTS)).max(1);
        let most = (pixels / 64).max(least).min(runs).min(IMAGE_TILES);
        let even = |blocks: &usize| {
            blocks.is_multiple_of(threads) || threads.is_multiple_of(*blocks) || *blocks == least
        };
        let best =
            (least.min(most)..=most).filter(even).min_by_key(|&blocks| (time(blocks), blocks)).unwrap_or(1);
        let most = (IMAGE_TILES / best).max(1);
        (block_of(best), some(best).max(panels.div_ceil(most)) * nr)
    }
}

/// Groups of images that threads share where all images of a group share a tile: as few as give each thread as many of the
/// `blocks` blocks of channels, or nearly so.
pub(crate) fn groups(images: usize, blocks: usize, threads: usize) -> usize {
    let even = |groups: &usize| {
        let tiles = groups * blocks;
        tiles.is_multiple_of(threads) || tiles >= 4 * threads
    };
    (1..images).find(even).unwrap_or(images)
}

/// Pixels of a product's output that are added up by themselves, so that where tiles start does not show in the sums: of 7 x 7 all, of
/// 14 x 14 half, so that two threads can share them, with each doubling of the sides half as many of all.
pub(crate) fn sum_run(pixels: usize) -> usize {
    let parts = (pixels.isqrt() / 7).clamp(1, MAX_RUNS);
    pixels.div_ceil(1 << parts.ilog2())
}

/// Channels of a tile that sums one of `runs` runs of pixels of a map that is not kept: a panel of `nr`, or as many as leave an image
/// no more tiles than it may have.
pub(crate) fn summed_channels(channels: usize, nr: usize, runs: usize) -> usize {
    channels.div_ceil(nr).div_ceil((IMAGE_TILES / runs).max(1)) * nr
}

/// Panels of `nr` columns for `channels` output channels, in halves: the last panel may be one.
pub(crate) fn half_panels(channels: usize, nr: usize) -> usize {
    channels.div_ceil(nr / 2)
}

/// Input pixels that a further output pixel reads and its neighbours do not: a stride also skips some.
pub(crate) fn pixels_read(geometry: &Geometry) -> usize {
    (0..2).map(|d| geometry.stride[d].min(geometry.kernel[d])).product()
}

/// Most input rows that some rows of an output read.
pub(crate) fn rows_read(geometry: &Geometry, rows: usize) -> usize {
    let reach = (rows - 1) * geometry.stride[0] + geometry.dilation[0] * (geometry.kernel[0] - 1) + 1;
    reach.min(geometry.input[0])
}

/// How an output without weights is cut: into bands of pixels, four or a multiple of it, so that threads cut it where they cut maps of
/// convolutions: each finds its part in its own cache.
pub(crate) fn bands(images: usize, pixels: usize, channels: usize, ld: usize) -> Grid {
    // 16 Ki values are some microseconds of work.
    let count = (pixels * channels).div_ceil(16384).next_multiple_of(4).min(IMAGE_TILES);
    let block = pixels.div_ceil(count).max(1);
    Grid { images, pixels, channels, ld, pixel_block: block, channel_block: channels.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Blocks = Blocks { threads: 2, shared: true };
    const ONE: Blocks = Blocks { threads: 2, shared: false };

    /// A 1x1 layer.
    fn layer(pixels: usize, values: usize, halves: usize, experts: usize, row: usize) -> Layer {
        Layer { pixels, values, by_channel: false, terms: values, halves, experts, row }
    }

    #[test]
    fn a_late_layer_is_cut_by_channels_and_an_early_one_by_pixels() {
        assert_eq!(TWO.pixel_block(layer(49, 512, 128, 4, 1)), 49);
        assert_eq!(TWO.pixel_block(layer(49, 960, 10, 4, 1)), 49);
        assert_eq!(TWO.pixel_block(layer(196, 240, 6, 0, 1)), 98);
        let early = TWO.pixel_block(layer(3136, 256, 8, 4, 1));
        assert!((98..=1024).contains(&early), "{early}");
        assert_eq!(TWO.pixel_block(layer(112 * 112, 32, 2, 0, 112)) % 112, 0);
        assert_eq!(TWO.pixel_block(layer(1, 1024, 64, 4, 1)), 1);
        // 18 channels are a panel and a half: a thread each would leave one idle for half the time.
        assert_eq!([16, 18, 24, 25].map(|channels| half_panels(channels, 16)), [2, 3, 3, 4]);
        assert!(TWO.pixel_block(layer(3136, 18, 3, 4, 1)) <= 1568);
    }

    #[test]
    fn threads_keep_to_the_rows_that_they_wrote_where_that_costs_less_than_it_saves() {
        // Of 99 pixels thread 1 has the last two of three blocks, of which it wrote 50.
        assert_eq!(
            [(1, 2), (2, 2), (3, 1)].map(|(blocks, panels)| TWO.foreign(blocks, panels, 99)),
            [50, 1, 16]
        );
        assert_eq!(ONE.foreign(1, 2, 99), 0);
        // ShuffleNetV2: 58 channels of 28 x 28, 116 of 14 x 14.
        let rows = |cut: Blocks, side, terms, panels| {
            cut.window_rows(&Geometry::same([side; 2], 3, 1), terms, panels, 1)
        };
        assert_eq!([ONE, TWO].map(|cut| rows(cut, 28, 58, 2)), [Some(28), Some(14)]);
        assert_eq!([ONE, TWO].map(|cut| rows(cut, 14, 116, 4)), [Some(14), Some(7)]);
        assert_eq!([ONE, TWO].map(|cut| cut.pixel_block(layer(196, 116, 8, 4, 1))), [196, 98]);
        // ResNet50: fixed kernels of 4 MB are not read twice.
        assert_eq!(TWO.pixel_block(layer(196, 256, 64, 4, 1)), 196);
    }

    #[test]
    fn a_layer_that_skips_pixels_is_fused_as_often_as_one_that_does_not() {
        let read = |kernel, stride| pixels_read(&Geometry::same([28, 28], kernel, stride));
        assert_eq!([read(1, 1), read(3, 1), read(1, 2), read(3, 2), read(2, 3)], [1, 1, 1, 4, 4]);
        // ResNet50's 1x1 layer of stride 2 before 7 x 7 pixels, and its 1x1 layers of 14 x 14.
        assert_eq!(TWO.pixel_block(layer(49, 1024 * read(1, 2), 256, 4, 1)), 49);
        assert_eq!(TWO.pixel_block(layer(196, 1024 * read(1, 1), 32, 4, 1)), 196);
    }

    #[test]
    fn pixels_are_laid_out_within_the_cache_and_once_where_fusing_does_not_count() {
        // A 3x3 layer of 64 channels of 56 x 56: blocks of pixels, each with all channels.
        let (block, channels) = TWO.bf16_tile([3136, 1], [576; 2], (64, 32), 4);
        assert!(block * 576 <= BF16_VALUES && block < 3136 && channels == 64, "{block}, {channels}");
        // One of 512 channels of 7 x 7 is cut by channels: a further block would fuse all panels again.
        let (block, channels) = TWO.bf16_tile([49, 1], [4608; 2], (512, 32), 4);
        assert!(block == 49 && (64..=256).contains(&channels), "{block}, {channels}");
        // Static, a tile shares its pixels among as many channels as leave each thread one.
        assert_eq!(TWO.bf16_tile([49, 1], [4608; 2], (512, 32), 0), (49, 256));
        // A map with its border is laid out once for nine elements of a kernel: all pixels for each of two threads.
        assert_eq!(TWO.bf16_tile([3136, 1], [576, 67], (64, 32), 0), (1568, 64));
    }

    #[test]
    fn images_share_a_tile_while_each_thread_has_as_many() {
        assert_eq!([1, 2, 3, 5, 16].map(|blocks| groups(8, blocks, 2)), [2, 1, 2, 2, 1]);
        assert_eq!([4, 5, 10].map(|blocks| groups(8, blocks, 16)), [4, 8, 7]);
        assert_eq!((groups(8, 5, 1), groups(1, 5, 2), groups(3, 1, 16)), (1, 1, 3));
    }

    #[test]
    fn a_tile_computes_as_many_rows_as_its_cache_holds_and_few_of_them_twice() {
        // 112 x 112 with stride 2: 17 input rows are 1904 pixels.
        assert_eq!(ONE.window_rows(&Geometry::same([112, 112], 3, 2), 16, 6, 1), Some(8));
        assert_eq!(ONE.window_rows(&Geometry::same([14, 14], 3, 1), 64, 24, 1), Some(14));
        // A row or two of a wide image fit, of which most would be computed again.
        assert_eq!(TWO.window_rows(&Geometry::same([900, 900], 3, 1), 16, 6, 1), None);
        assert_eq!(TWO.window_rows(&Geometry::same([4, 4], 3, 1), 16, 6000, 1), None);
    }

    /// Layers of ResNets over 224 x 224 pixels: side of the map, channels in and out.
    const LAYERS: [[usize; 3]; 6] =
        [[56, 64, 64], [56, 64, 256], [28, 128, 128], [28, 512, 128], [14, 256, 256], [7, 512, 512]];

    #[test]
    fn many_threads_have_a_tile_each() {
        for threads in [1, 2, 4, 8, 16] {
            let blocks = Blocks::new(threads);
            // A thread may be without work for a fifth of the time.
            let full = |tiles: usize| 5 * tiles >= 4 * threads * tiles.div_ceil(threads);
            for ([side, c_in, c_out], experts) in LAYERS.into_iter().flat_map(|l| [(l, 0), (l, 4)]) {
                let (pixels, nr) = (side * side, 32);
                let what =
                    format!("{c_in} to {c_out} at {side} x {side}, {experts} experts, {threads} threads");
                let halves = half_panels(c_out, nr);
                let block = blocks.pixel_block(layer(pixels, c_in, halves, experts, 1));
                let channels = blocks.channel_block(c_out, nr, pixels.div_ceil(block));
                assert!(
                    full(pixels.div_ceil(block) * c_out.div_ceil(channels)),
                    "{what}: {block}, {channels}"
                );
                let (block, channels) = blocks.bf16_tile([pixels, 1], [9 * c_in; 2], (c_out, nr), experts);
                let tiles = pixels.div_ceil(block) * c_out.div_ceil(channels);
                assert!(full(tiles) || tiles >= c_out / nr, "{what}, bf16: {block}, {channels}");
                if side > 7 {
                    let (tiles, strip) = ([side.div_ceil(4); 2], 96_usize.div_ceil(side.div_ceil(4)));
                    let (rows, channels) = blocks.winograd_tile(tiles, 4, strip, (c_out, nr), experts);
                    assert!(
                        full(side.div_ceil(rows) * c_out.div_ceil(channels)),
                        "{what}: {rows}, {channels}"
                    );
                }
            }
        }
    }

    #[test]
    fn two_threads_share_rows_of_large_maps_and_channels_of_small_ones_in_winograd() {
        // 14 x 14 tiles of 56 x 56 pixels, 7 x 7 of 28 x 28, 4 x 4 of 14 x 14.
        assert_eq!(TWO.winograd_tile([14, 14], 4, 3, (64, 32), 0), (28, 64));
        assert_eq!(TWO.winograd_tile([7, 7], 4, 5, (128, 32), 0), (28, 64));
        assert_eq!(TWO.winograd_tile([4, 4], 4, 24, (256, 32), 4), (16, 128));
    }

    #[test]
    fn no_image_has_more_tiles_than_possible() {
        for (pixels, cut) in [1, 49, 3136, 1 << 20].into_iter().flat_map(|p| [(p, TWO), (p, Blocks::new(64))])
        {
            for channels in [1, 24, 2048, 65536] {
                for run in [1, sum_run(pixels)] {
                    let block = cut.pixel_block(layer(pixels, 64, half_panels(channels, 8), 16, run));
                    let blocks = pixels.div_ceil(block);
                    let tiles = blocks * channels.div_ceil(cut.channel_block(channels, 8, blocks));
                    assert!(tiles <= IMAGE_TILES, "{pixels} pixels, {channels} channels: {tiles}");
                    assert!(block.is_multiple_of(run) || block == pixels, "{pixels} pixels: {block}");
                    let (block, some) = cut.bf16_tile([pixels, run], [576; 2], (channels, 8), 4);
                    let tiles = pixels.div_ceil(block) * channels.div_ceil(some);
                    assert!(tiles <= IMAGE_TILES, "{pixels} pixels, {channels} channels in bf16: {tiles}");
                    assert!(block.is_multiple_of(run) || block == pixels, "{pixels} pixels: {block}");
                }
                let side = pixels.isqrt();
                let (rows, channel_block) = cut.winograd_tile([side.div_ceil(4); 2], 4, 1, (channels, 8), 4);
                let tiles = side.div_ceil(rows) * channels.div_ceil(channel_block);
                assert!(tiles <= IMAGE_TILES, "{side} x {side}, {channels} channels: {tiles}");
                let runs = pixels.div_ceil(sum_run(pixels));
                let tiles = runs * channels.div_ceil(summed_channels(channels, 8, runs));
                assert!(tiles <= IMAGE_TILES, "sums of {pixels} pixels, {channels} channels: {tiles}");
                let (block, some) = cut.bf16_tile([pixels, 1], [576; 2], (channels, 8), 0);
                let tiles = pixels.div_ceil(block) * channels.div_ceil(some);
                assert!(tiles <= IMAGE_TILES, "{pixels} pixels, {channels} channels, static: {tiles}");
            }
            let grid = bands(MAX_IMAGES, pixels, 7, 7);
            assert!(grid.tiles() <= MAX_TILES);
        }
    }
}
