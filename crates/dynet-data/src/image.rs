//! Images as bytes, and reading them from JPEG and PNG files within limits.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use ::image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};
use dynet_net::Channels;
use serde::{Deserialize, Serialize};

use crate::DataError;

/// An image of 8 bits a channel.
///
/// # Shapes
/// `pixels` is `[height][width][channels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// What a pixel consists of.
    pub channels: Channels,
    /// The values, row after row.
    pub pixels: Vec<u8>,
}

impl Image {
    /// The same image in `channels`. Grey from colour is the luma of ITU-R BT.601, rounded as Pillow rounds it;
    /// colour from grey repeats the value.
    pub fn into_channels(self, channels: Channels) -> Self {
        let pixels = match (self.channels, channels) {
            (Channels::Gray, Channels::Rgb) => self.pixels.iter().flat_map(|&v| [v; 3]).collect(),
            (Channels::Rgb, Channels::Gray) => {
                self.pixels.as_chunks::<3>().0.iter().copied().map(luma).collect()
            }
            _ => return self,
        };
        Self { pixels, channels, ..self }
    }
}

/// Luma with the weights 0.299, 0.587, 0.114 in 16-bit fixed point.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// How large an image file may be, so that no file can fill the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeLimits {
    /// Pixels of one image: width times height.
    pub pixels: u64,
    /// Bytes of one image file, and bytes that decoding it may take.
    pub bytes: u64,
    /// Bytes, unpacked, of one file of many images (IDX, CIFAR).
    pub set_bytes: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { pixels: 64 << 20, bytes: 512 << 20, set_bytes: 4 << 30 }
    }
}

/// What the header of an image file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) size: [usize; 2],
    pub(crate) channels: Channels,
}

/// Reads a JPEG or PNG file. The format is told by its first bytes, not by its name. An alpha channel is
/// dropped, 16 bits become 8, palettes become colours; the orientation noted by a camera is not applied (nor
/// does torchvision).
///
/// # Errors
/// [`DataError::Io`], [`DataError::Limit`], or [`DataError::Decode`] for a file that is no JPEG or PNG, is
/// damaged or ends too early (for a JPEG: before its end marker).
pub fn decode_file(path: &Path, limits: &DecodeLimits) -> Result<Image, DataError> {
    let bytes = read_within(path, limits.bytes)?;
    let decoder = decoder(path, &bytes, limits)?;
    if bytes.starts_with(&[0xff, 0xd8]) && !jpeg_is_complete(&bytes) {
        return Err(DataError::decode(path, "the JPEG ends before its end marker"));
    }
    let decoded = ::image::DynamicImage::from_decoder(decoder).map_err(|e| DataError::decode(path, e))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let (channels, pixels) = match decoded.color() {
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16 => {
            (Channels::Gray, decoded.into_luma8().into_raw())
        }
        _ => (Channels::Rgb, decoded.into_rgb8().into_raw()),
    };
    Ok(Image { width, height, channels, pixels })
}

/// Size and channels without decoding.
pub(crate) fn read_header(path: &Path, limits: &DecodeLimits) -> Result<Header, DataError> {
    let bytes = read_within(path, limits.bytes)?;
    let decoder = decoder(path, &bytes, limits)?;
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_color() { Channels::Rgb } else { Channels::Gray };
    Ok(Header { size: [height as usize, width as usize], channels })
}

fn read_within(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let got = std::fs::metadata(path).map_err(DataError::io(path))?.len();
    if got > limit {
        return Err(DataError::Limit { path: path.to_path_buf(), what: "bytes of the file", limit, got });
    }
    std::fs::read(path).map_err(DataError::io(path))
}

/// A decoder that has read the header, of which size and memory are within the limits.
fn decoder<'a>(
    path: &Path,
    bytes: &'a [u8],
    limits: &DecodeLimits,
) -> Result<impl ImageDecoder + 'a, DataError> {
    let format = match ::image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => format,
        _ => return Err(DataError::decode(path, "neither JPEG nor PNG")),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = Limits::default();
    allowed.max_alloc = Some(limits.bytes);
    reader.limits(allowed);
    let decoder = reader.into_decoder().map_err(|e| DataError::decode(path, e))?;
    let (width, height) = decoder.dimensions();
    let over = |what, limit, got| DataError::Limit { path: PathBuf::from(path), what, limit, got };
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.pixels {
        return Err(over("pixels", limits.pixels, pixels));
    }
    if decoder.total_bytes() > limits.bytes {
        return Err(over("bytes when decoded", limits.bytes, decoder.total_bytes()));
    }
    Ok(decoder)
}

/// Whether the end marker of a JPEG follows its scans. The decoder paints what is missing grey and calls it
/// success, hence this walk over the segments (ITU-T T.81, annex B).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut at = 2;
    loop {
        let Some(step) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
            return false;
        };
        at += step + 1;
        match bytes.get(at) {
            None => return false,
            Some(&END) => return true,
            // Fill bytes, stuffed zeros, and the markers that have no length.
            Some(0xff) => continue,
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}
