//! The built-in set: 14,000 images of Fashion-MNIST inside the program.
//!
//! `data/README.md` says whose they are, `tools/builtin/make_builtin.py` how the file is laid out and made.

use std::io::Read;
use std::path::Path;

use dynet_net::Channels;
use flate2::read::GzDecoder;

use crate::dataset::Packed;
use crate::{DataError, Dataset};

const PACKED: &[u8] = include_bytes!("../data/fashion.gz");
const SIDE: usize = 28;
const CLASSES: usize = 10;
const TRAIN: usize = 12_000;
const TEST: usize = 2_000;

/// Names of the classes, as Fashion-MNIST's authors give them.
pub(crate) const CLASS_NAMES: [&str; CLASSES] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Training and test images.
pub(crate) fn load() -> Result<(Dataset, Dataset), DataError> {
    unpack(PACKED)
}

fn unpack(packed: &[u8]) -> Result<(Dataset, Dataset), DataError> {
    let name = Path::new("builtin");
    let expected = (TRAIN + TEST) * SIDE * SIDE;
    let mut pixels = Vec::with_capacity(expected + 1);
    // One byte more than there should be, so that the checksum at the end is read and a surplus is seen.
    let read = GzDecoder::new(packed).take(expected as u64 + 1).read_to_end(&mut pixels);
    read.map_err(DataError::io(name))?;
    if pixels.len() != expected {
        return Err(DataError::format(name, "bytes", expected, pixels.len()));
    }
    for image in pixels.as_chunks_mut::<{ SIDE * SIDE }>().0 {
        undo_filter(image);
    }
    let test = pixels.split_off(TRAIN * SIDE * SIDE);
    let set = |origin: &str, pixels: Vec<u8>, count: usize| {
        let packed = Packed { origin: origin.into(), size: [SIDE; 2], channels: Channels::Gray, pixels };
        let labels = (0..count).map(|i| (i * CLASSES / count) as u32).collect();
        let by_class = Dataset::packed(packed, labels);
        // The file is sorted by class; the set takes one of each class in turn, so that any first part of it
        // is balanced too.
        let turns: Vec<usize> = (0..count).map(|i| (i % CLASSES) * (count / CLASSES) + i / CLASSES).collect();
        by_class.subset(&turns)
    };
    Ok((set("builtin train", pixels, TRAIN), set("builtin test", test, TEST)))
}

/// Adds the Paeth predictor to each difference, in place (PNG specification, section 9.4).
fn undo_filter(image: &mut [u8; SIDE * SIDE]) {
    for y in 0..SIDE {
        for x in 0..SIDE {
            let at = y * SIDE + x;
            let left = if x > 0 { image[at - 1] } else { 0 };
            let up = if y > 0 { image[at - SIDE] } else { 0 };
            let corner = if x > 0 && y > 0 { image[at - SIDE - 1] } else { 0 };
            image[at] = image[at].wrapping_add(paeth(left, up, corner));
        }
    }
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let guess = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (guess - i16::from(value)).abs();
    if distance(left) <= distance(up) && distance(left) <= distance(corner) {
        left
    } else if distance(up) <= distance(corner) {
        up
    } else {
        corner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums over all pixels of each set, taken from the IDX files by a separate program.
    #[test]
    fn the_images_are_those_of_the_idx_files_and_balanced() {
        let (train, test) = load().unwrap();
        for (set, per_class) in [(&train, TRAIN / CLASSES), (&test, TEST / CLASSES)] {
            assert_eq!(set.len(), per_class * CLASSES);
            for class in 0..CLASSES {
                assert_eq!((0..set.len()).filter(|&i| set.label(i) == class).count(), per_class);
                assert!((0..CLASSES).any(|i| set.label(i) == class), "the first ten hold every class");
            }
        }
        let sum = |set: &Dataset, class: usize| -> u64 {
            let images = (0..set.len()).filter(|&i| set.label(i) == class).map(|i| set.image(i).unwrap());
            images.flat_map(|image| image.pixels).map(u64::from).sum()
        };
        assert_eq!([0, 5, 9].map(|class| sum(&train, class)), TRAIN_SUMS);
        assert_eq!([0, 5, 9].map(|class| sum(&test, class)), TEST_SUMS);
    }

    const TRAIN_SUMS: [u64; 3] = [76819384, 32323044, 72119467];
    const TEST_SUMS: [u64; 3] = [12878350, 5364394, 11776701];

    #[test]
    fn damaged_bytes_are_an_error() {
        for keep in [0, 1, 9, 10, 1000, PACKED.len() / 2, PACKED.len() - 9, PACKED.len() - 1] {
            assert!(unpack(&PACKED[..keep]).is_err(), "{keep} bytes");
        }
        let mut flipped = PACKED.to_vec();
        flipped[PACKED.len() / 2] ^= 1;
        assert!(unpack(&flipped).is_err());
    }
}
