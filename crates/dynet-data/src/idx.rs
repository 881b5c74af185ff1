//! IDX files: the whole of MNIST, Fashion-MNIST and their relatives, gzipped or plain.
//!
//! Source: Yann LeCun's description of the format, <http://yann.lecun.com/exdb/mnist/>: two zero bytes, 8 for
//! unsigned bytes, the number of dimensions, each dimension as a big-endian 32-bit number, the values.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use dynet_net::Channels;
use flate2::read::MultiGzDecoder;

use crate::dataset::Packed;
use crate::source::{Found, folder_name};
use crate::{DataError, Dataset, DecodeLimits, builtin};

/// What the parts are called, before `-images` or `-labels`.
const PARTS: [&str; 2] = ["train", "t10k"];

/// Whether `folder` holds the training images under one of their names.
pub(crate) fn detect(folder: &Path) -> bool {
    file(folder, PARTS[0], "images", 3).is_some()
}

/// Reads training and, if there are any, test images. The classes are named by `classes.txt` (one a line) if
/// there is one, else after Fashion-MNIST if there are ten and the folder's name has "fashion" in it, else by
/// their numbers.
pub(crate) fn open(folder: &Path, limits: &DecodeLimits) -> Result<Found, DataError> {
    let train = part(folder, PARTS[0], limits)?;
    let has_test = file(folder, PARTS[1], "images", 3).is_some();
    let test = if has_test { Some(part(folder, PARTS[1], limits)?) } else { None };
    let size = train.0;
    if let Some((other, _)) = test.as_ref().filter(|(other, _)| *other != size) {
        let (expected, got) = (format!("{size:?}"), format!("{other:?}"));
        return Err(DataError::format(folder, "size of the test images", expected, got));
    }
    let labels = train.1.labels().iter().chain(test.iter().flat_map(|(_, set)| set.labels()));
    let classes = labels.max().map_or(0, |&last| last as usize + 1);
    Ok(Found {
        name: folder_name(folder),
        classes: class_names(folder, classes)?,
        channels: Channels::Gray,
        size: Some(size),
        train: train.1,
        val: None,
        test: test.map(|(_, set)| set),
        skipped: Vec::new(),
    })
}

/// The file of `part`, `kind` ("images", "labels"), with `dims` dimensions, under any of its usual names.
fn file(folder: &Path, part: &str, kind: &str, dims: u8) -> Option<PathBuf> {
    let names = ["-", "."].into_iter().flat_map(|dot| {
        ["", ".gz"].map(|end| folder.join(format!("{part}-{kind}{dot}idx{dims}-ubyte{end}")))
    });
    names.into_iter().find(|path| path.is_file())
}

fn part(folder: &Path, part: &str, limits: &DecodeLimits) -> Result<([usize; 2], Dataset), DataError> {
    let find = |kind, dims| {
        let name = format!("{part}-{kind}-idx{dims}-ubyte");
        let missing = || DataError::format(folder, "files", format!("{name} or {name}.gz"), "neither");
        file(folder, part, kind, dims).ok_or_else(missing)
    };
    let (images, labels) = (find("images", 3)?, find("labels", 1)?);
    let ([count, height, width], pixels) = read::<3>(&images, limits)?;
    let ([labelled], classes) = read::<1>(&labels, limits)?;
    if labelled != count {
        return Err(DataError::format(&labels, "labels", format!("{count}, one an image"), labelled));
    }
    if count == 0 || height == 0 || width == 0 {
        let got = format!("{count} of {height} x {width}");
        return Err(DataError::format(&images, "images", "at least one, of at least 1 x 1", got));
    }
    let origin = images.display().to_string();
    let packed = Packed { origin, size: [height, width], channels: Channels::Gray, pixels };
    Ok(([height, width], Dataset::packed(packed, classes.into_iter().map(u32::from).collect())))
}

/// The dimensions and bytes of one file, gzipped if it begins so.
fn read<const N: usize>(path: &Path, limits: &DecodeLimits) -> Result<([usize; N], Vec<u8>), DataError> {
    let mut start = [0; 2];
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let got = file.read(&mut start).map_err(DataError::io(path))?;
    let file = BufReader::new(File::open(path).map_err(DataError::io(path))?);
    if got == 2 && start == [0x1f, 0x8b] {
        parse(path, MultiGzDecoder::new(file), limits)
    } else {
        parse(path, file, limits)
    }
}

fn parse<const N: usize>(
    path: &Path,
    mut reader: impl Read,
    limits: &DecodeLimits,
) -> Result<([usize; N], Vec<u8>), DataError> {
    let mut number = || {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map_err(DataError::io(path)).map(|()| u32::from_be_bytes(bytes))
    };
    let (magic, expected) = (number()?, 0x0800 + N as u32);
    if magic != expected {
        let [expected, got] = [expected, magic].map(|number| format!("0x{number:08x}"));
        return Err(DataError::format(path, "first four bytes", expected, got));
    }
    let mut dims = [0; N];
    for dim in &mut dims {
        *dim = number()? as usize;
    }
    let bytes = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64));
    let bytes = bytes.unwrap_or(u64::MAX);
    let limit = limits.set_bytes;
    if bytes > limit {
        return Err(DataError::Limit { path: path.to_path_buf(), what: "bytes", limit, got: bytes });
    }
    // Grows with what is there, not with what the header promises; one byte more shows a surplus.
    let mut values = Vec::new();
    reader.take(bytes + 1).read_to_end(&mut values).map_err(DataError::io(path))?;
    if values.len() as u64 != bytes {
        let got = if values.len() as u64 > bytes { "more".into() } else { values.len().to_string() };
        return Err(DataError::format(path, "bytes after the header", bytes, got));
    }
    Ok((dims, values))
}

fn class_names(folder: &Path, classes: usize) -> Result<Vec<String>, DataError> {
    if let Some(names) = names_file(&folder.join("classes.txt"), classes)? {
        return Ok(names);
    }
    if classes == builtin::CLASS_NAMES.len() && folder_name(folder).to_lowercase().contains("fashion") {
        return Ok(builtin::CLASS_NAMES.map(str::to_owned).to_vec());
    }
    Ok((0..classes).map(|class| class.to_string()).collect())
}

/// The lines of a file that names `classes` classes, if it is there; empty lines do not count.
pub(crate) fn names_file(path: &Path, classes: usize) -> Result<Option<Vec<String>>, DataError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(DataError::io(path))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() < classes {
        return Err(DataError::format(path, "lines", format!("{classes}, one a class"), names.len()));
    }
    Ok(Some(names))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// `count` images of 3 x 2 whose bytes count upwards, with labels 0, 1, 2, 0, ..
    fn files(count: u32) -> [(&'static str, Vec<u8>); 2] {
        let number = |n: u32| n.to_be_bytes();
        let mut images = [number(0x0803), number(count), number(3), number(2)].concat();
        images.extend((0..count * 6).map(|i| i as u8));
        let mut labels = [number(0x0801), number(count)].concat();
        labels.extend((0..count).map(|i| (i % 3) as u8));
        [("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)]
    }

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_and_gzipped_files_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files(30) {
            std::fs::write(folder.path().join(format!("train-{name}")), bytes).unwrap();
        }
        for (name, bytes) in files(9) {
            std::fs::write(folder.path().join(format!("t10k-{name}.gz")), gzipped(&bytes)).unwrap();
        }
        assert!(detect(folder.path()));
        let found = open(folder.path(), &DecodeLimits::default()).unwrap();
        assert_eq!((found.classes.len(), found.size, found.train.len()), (3, Some([3, 2]), 30));
        let test = found.test.unwrap();
        assert_eq!((test.len(), test.label(7)), (9, 1));
        let image = test.image(2).unwrap();
        assert_eq!((image.height, image.width, image.pixels), (3, 2, (12..18).collect::<Vec<u8>>()));
        assert!(test.image(9).is_err());
    }

    #[test]
    fn truncated_longer_and_contradictory_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(format!("train-{name}"));
        let [(images_name, images), (labels_name, labels)] = files(4);
        let open = || open(folder.path(), &DecodeLimits::default());
        let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
        write(labels_name, &labels);
        let packed = gzipped(&images);
        for keep in 0..images.len() {
            write(images_name, &images[..keep]);
            assert!(open().is_err(), "{keep} bytes");
        }
        for keep in 0..packed.len() {
            write(images_name, &packed[..keep]);
            assert!(open().is_err(), "{keep} gzipped bytes");
        }
        write(images_name, &[&images[..], &[0]].concat());
        assert!(open().err().unwrap().to_string().contains("got more"));
        // A header that promises 2^96 bytes.
        write(images_name, &[&images[..4], &[0xff; 12]].concat());
        assert!(matches!(open(), Err(DataError::Limit { .. })));
        write(images_name, &images);
        assert!(open().is_ok());
        for keep in 0..labels.len() {
            write(labels_name, &labels[..keep]);
            assert!(open().is_err(), "{keep} bytes of labels");
        }
        write(labels_name, &files(3)[1].1);
        assert!(open().err().unwrap().to_string().contains("one an image"));
        std::fs::remove_file(path(labels_name)).unwrap();
        assert!(open().err().unwrap().to_string().contains("train-labels-idx1-ubyte"));
    }
}
