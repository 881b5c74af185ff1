//! From a decoded image to a net's input: resize, crop, scale, normalise.

use dynet_net::{Interpolation, Preprocessing};
use fast_image_resize::images::{Image as Resized, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::{DataError, Dataset, Image};

/// Part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// What a net is given for `image`: evaluation's path, without randomness. As torchvision does on images of
/// Pillow: the shorter side is resized with a filter that is widened when shrinking, in 8 bits, and the centre
/// cropped; where the crop is larger than the image, black surrounds it.
///
/// # Shapes
/// `[channels][height][width]` of `p`.
///
/// # Units
/// `(value / 255 - mean) / std`.
pub fn preprocess(image: &Image, p: &Preprocessing) -> Vec<f32> {
    normalise(&fit(image, p), p)
}

/// Channels, resize and centre crop of `p`: an image of the size of its crop.
pub(crate) fn fit(image: &Image, p: &Preprocessing) -> Image {
    let image = image.clone().into_channels(p.channels);
    let [height, width] = resized_size(&image, p);
    let whole = Rect { top: 0, left: 0, height: image.height, width: image.width };
    let image = resize(image, whole, [height, width], p.interpolation);
    window(&image, centre_start(image.height, p.crop[0]), centre_start(image.width, p.crop[1]), p.crop)
}

/// Height and width before the crop.
fn resized_size(image: &Image, p: &Preprocessing) -> [usize; 2] {
    let (height, width) = (image.height.max(1), image.width.max(1));
    match p.resize {
        // torchvision cuts the longer side's fraction off.
        Some(short) if height <= width => [short, (short * width / height).max(1)],
        Some(short) => [(short * height / width).max(1), short],
        None => {
            let scale = (p.crop[0] as f64 / height as f64).max(p.crop[1] as f64 / width as f64);
            let scaled = |side: usize, least: usize| ((side as f64 * scale).round() as usize).max(least);
            [scaled(height, p.crop[0]), scaled(width, p.crop[1])]
        }
    }
}

/// Where the middle `want` of `have` pixels begin. torchvision rounds to the nearest, halves to the even one,
/// when cropping, and towards the middle when it pads, which is where the result is negative.
fn centre_start(have: usize, want: usize) -> i64 {
    match have.checked_sub(want) {
        Some(surplus) => {
            let floor = surplus / 2;
            (if surplus % 2 == 1 && floor % 2 == 1 { floor + 1 } else { floor }) as i64
        }
        None => -(((want - have) / 2) as i64),
    }
}

/// `size` pixels of `image` from row `top` and column `left`, which may be negative; black outside.
pub(crate) fn window(image: &Image, top: i64, left: i64, size: [usize; 2]) -> Image {
    if (top, left) == (0, 0) && size == [image.height, image.width] {
        return image.clone();
    }
    let channels = image.channels.count();
    let mut pixels = vec![0; size[0] * size[1] * channels];
    // The columns that both have.
    let from = left.clamp(0, image.width as i64);
    let to = (left + size[1] as i64).clamp(from, image.width as i64);
    let bytes = (to - from) as usize * channels;
    let into = (from - left).clamp(0, size[1] as i64) as usize * channels;
    for (y, row) in pixels.chunks_exact_mut(size[1] * channels).enumerate() {
        let source = top + y as i64;
        if bytes > 0 && (0..image.height as i64).contains(&source) {
            let start = (source as usize * image.width + from as usize) * channels;
            row[into..into + bytes].copy_from_slice(&image.pixels[start..start + bytes]);
        }
    }
    Image { height: size[0], width: size[1], channels: image.channels, pixels }
}

/// The part `rect` of `image`, resized to `size`. A part that reaches outside gives a black image.
pub(crate) fn resize(image: Image, rect: Rect, size: [usize; 2], filter: Interpolation) -> Image {
    let whole = Rect { top: 0, left: 0, height: image.height, width: image.width };
    if rect == whole && size == [image.height, image.width] {
        return image;
    }
    // A crop first, and not the resizer's own: its filter would look at pixels beyond the part.
    let part = window(&image, rect.top as i64, rect.left as i64, [rect.height, rect.width]);
    // Rows first, as Pillow: each step rounds to 8 bits, and the other order rounds differently.
    let narrowed = resize_step(part, [rect.height, size[1]], filter);
    resize_step(narrowed, size, filter)
}

fn resize_step(image: Image, size: [usize; 2], filter: Interpolation) -> Image {
    if size == [image.height, image.width] {
        return image;
    }
    let kind = if image.channels.count() == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let algorithm = match filter {
        Interpolation::Nearest => ResizeAlg::Nearest,
        Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
    };
    let mut out = Resized::new(size[1] as u32, size[0] as u32, kind);
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    // Both steps fail on an empty or contradictory size alone, and then the image stays black.
    if let Ok(source) = ImageRef::new(image.width as u32, image.height as u32, &image.pixels, kind) {
        let _ = Resizer::new().resize(&source, &mut out, &options);
    }
    Image { height: size[0], width: size[1], channels: image.channels, pixels: out.into_vec() }
}

/// Planes of `(value / 255 - mean) / std`.
pub(crate) fn normalise(image: &Image, p: &Preprocessing) -> Vec<f32> {
    let mut planes = to_planes(image);
    normalise_planes(&mut planes, image.channels.count(), p);
    planes
}

/// Planes of values in `[0, 1]`.
pub(crate) fn to_planes(image: &Image) -> Vec<f32> {
    let channels = image.channels.count();
    let plane = image.width * image.height;
    let mut out = vec![0.0; plane * channels];
    for (channel, values) in out.chunks_exact_mut(plane.max(1)).enumerate() {
        for (value, pixel) in values.iter_mut().zip(image.pixels.chunks_exact(channels)) {
            *value = f32::from(pixel[channel]) / 255.0;
        }
    }
    out
}

pub(crate) fn normalise_planes(planes: &mut [f32], channels: usize, p: &Preprocessing) {
    let plane = (planes.len() / channels).max(1);
    for (values, (&mean, &std)) in planes.chunks_exact_mut(plane).zip(p.mean.iter().zip(&p.std)) {
        for value in values {
            *value = (*value - mean) / std;
        }
    }
}

/// Mean and standard deviation of each channel over at most `limit` images, spread evenly over the set; three
/// channels if any of them has colour, else one.
///
/// # Units
/// Of values in `[0, 1]`; the deviation is over all pixels, and at least 1/255 so that one can divide by it.
///
/// # Errors
/// What reading an image gives; [`DataError::Option`] for a set without images or a limit of 0.
pub fn channel_statistics(dataset: &Dataset, limit: usize) -> Result<(Vec<f32>, Vec<f32>), DataError> {
    let count = dataset.len().min(limit);
    if count == 0 {
        return Err(DataError::option("images to measure", "at least 1", 0));
    }
    // Exact sums of integers: for each channel the values, their squares, and the pixels.
    let mut sums = [[0u64; 3]; 2];
    let (mut pixels, mut colour) = (0u64, false);
    for i in 0..count {
        let image = dataset.image((i as u128 * dataset.len() as u128 / count as u128) as usize)?;
        colour |= image.channels == dynet_net::Channels::Rgb;
        let image = image.into_channels(dynet_net::Channels::Rgb);
        for pixel in image.pixels.as_chunks::<3>().0 {
            for (channel, &value) in pixel.iter().enumerate() {
                sums[0][channel] += u64::from(value);
                sums[1][channel] += u64::from(value).pow(2);
            }
        }
        pixels += (image.width * image.height) as u64;
    }
    let channels = if colour { 3 } else { 1 };
    let statistics = (0..channels).map(|c| {
        let mean = sums[0][c] as f64 / pixels as f64 / 255.0;
        let square = sums[1][c] as f64 / pixels as f64 / 255.0f64.powi(2);
        (mean as f32, (square - mean * mean).max(0.0).sqrt().max(1.0 / 255.0) as f32)
    });
    Ok(statistics.unzip())
}
