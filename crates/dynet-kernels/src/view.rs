//! Checked views of the arguments that kernels share.

use std::sync::atomic::AtomicU64;

use crate::activation::Activation;
use crate::shared::Tile;

/// Pixels of an image, channels last: channel `c` of pixel `p` is `data[p * ld + c]`.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// From the first channel of the first pixel on.
    pub data: &'a [f32],
    /// Values from one pixel to the next; more than the channels that are read where they are part of a wider map.
    pub ld: usize,
}

impl<'a> Pixels<'a> {
    /// A view of `data` with a pixel every `ld` values.
    pub fn new(data: &'a [f32], ld: usize) -> Self {
        Self { data, ld }
    }

    /// # Panics
    /// If `channels` of pixel `pixels - 1` lie outside.
    pub(crate) fn check(&self, pixels: usize, channels: usize) {
        let needed = if pixels == 0 { 0 } else { (pixels - 1) * self.ld + channels };
        assert!(
            self.data.len() >= needed && channels <= self.ld.max(needed),
            "input has {} values, {pixels} pixels of {channels} channels every {} need {needed}",
            self.data.len(),
            self.ld
        );
    }
}

/// Coefficients `[experts][channels]` of one image and one dynamic convolution; `channels` is that of the
/// convolution's output, or 1 where all output channels share them.
#[derive(Clone, Copy, Debug)]
pub struct Coefs<'a> {
    data: &'a [f32],
    channels: usize,
    /// First panel of coefficients that lie panel by panel.
    blocked: Option<usize>,
    clock: Option<&'a AtomicU64>,
}

impl<'a> Coefs<'a> {
    /// A view of `data`.
    ///
    /// # Panics
    /// If `data` is no multiple of `channels`.
    pub fn new(data: &'a [f32], channels: usize) -> Self {
        let whole = channels > 0 && data.len().is_multiple_of(channels);
        assert!(whole, "{} coefficients are no multiple of {channels} channels", data.len());
        Self { data, channels, blocked: None, clock: None }
    }

    /// Coefficients as panels of `nr` channels need them, `[panels][experts][nr]`, from panel `first` of the weights on.
    ///
    /// # Panics
    /// If `data` is no multiple of `nr`.
    pub fn blocked(data: &'a [f32], nr: usize, first: usize) -> Self {
        Self { blocked: Some(first), ..Self::new(data, nr) }
    }

    /// Adds to `clock` the nanoseconds that threads take to fuse with these coefficients, and some 50 each time to measure.
    pub fn timed(self, clock: Option<&'a AtomicU64>) -> Self {
        Self { clock, ..self }
    }

    /// Where the time of fusing goes.
    pub(crate) fn clock(&self) -> Option<&'a AtomicU64> {
        self.clock
    }

    /// First panel of coefficients that lie panel by panel; `None` for `[experts][channels]`.
    pub(crate) fn first_panel(&self) -> Option<usize> {
        self.blocked
    }

    /// All of them.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// Coefficients of one expert.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// # Panics
    /// If they are not those of `experts` fixed kernels of `n` channels.
    pub(crate) fn check(&self, experts: usize, n: usize) {
        if self.blocked.is_some() {
            let whole = self.data.len().is_multiple_of(experts * self.channels);
            assert!(whole, "{} coefficients are no panels of {experts} x {}", self.data.len(), self.channels);
            return;
        }
        let expected = experts * self.channels;
        assert!(
            self.data.len() == expected && (self.channels == n || self.channels == 1),
            "{} coefficients of {} channels, {expected} needed ({n} output channels x {experts} experts)",
            self.data.len(),
            self.channels
        );
    }
}

/// What is added to the sums of a convolution.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Pixels of a map of the output's size, from its channel 0 and pixel 0 on.
    Map(Pixels<'a>),
    /// What the output holds: half of the lines of two maps, and no other map leaves the caches for it.
    Output,
}

/// What happens to a sum in registers before it is stored: `act(sum + bias + residual)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value for each output channel of the layer.
    pub bias: Option<&'a [f32]>,
    /// What is added.
    pub residual: Option<Residual<'a>>,
    /// Applied last.
    pub act: Activation,
}

impl Epilogue<'_> {
    /// # Panics
    /// If bias or residual do not reach to the end of `pixels` x `channels`.
    pub(crate) fn check(&self, pixels: usize, channels: usize) {
        if let Some(bias) = self.bias {
            assert!(
                bias.len() >= channels,
                "bias has {} values, {channels} channels need one each",
                bias.len()
            );
        }
        if let Some(Residual::Map(map)) = self.residual {
            map.check(pixels, channels);
        }
    }

    /// Where a tile of bias starts; null for none.
    pub(crate) fn bias_of(&self, tile: &Tile<'_>) -> *const f32 {
        self.bias.map_or(std::ptr::null(), |bias| bias[tile.channel0()..].as_ptr())
    }

    /// Where what is added to a tile starts, and values from one pixel to the next; null for nothing.
    pub(crate) fn residual_of(&self, tile: &mut Tile<'_>) -> (*const f32, usize) {
        match self.residual {
            None => (std::ptr::null(), 0),
            Some(Residual::Map(map)) => {
                (map.data[tile.pixel0() * map.ld + tile.channel0()..].as_ptr(), map.ld)
            }
            Some(Residual::Output) => (tile.as_mut_ptr(), tile.ld()),
        }
    }
}
