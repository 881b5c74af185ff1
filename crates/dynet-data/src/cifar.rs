//! The binary versions of CIFAR-10 and CIFAR-100.
//!
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>: records of the label (CIFAR-100: the coarse label,
//! then the fine one) and 32 x 32 red, then green, then blue bytes. CIFAR-100's fine labels are the classes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use dynet_net::Channels;

use crate::dataset::Packed;
use crate::idx::names_file;
use crate::source::{Found, folder_name};
use crate::{DataError, Dataset, DecodeLimits};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// One of the two versions.
pub(crate) struct Version {
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Bytes before the pixels, of which the last is the label.
    labels: usize,
}

const VERSIONS: [Version; 2] = [
    Version {
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: "test_batch.bin",
        names: "batches.meta.txt",
        classes: 10,
        labels: 1,
    },
    Version {
        train: &["train.bin"],
        test: "test.bin",
        names: "fine_label_names.txt",
        classes: 100,
        labels: 2,
    },
];

/// The version whose training images `folder` holds.
pub(crate) fn detect(folder: &Path) -> Option<&'static Version> {
    VERSIONS.iter().find(|version| folder.join(version.train[0]).is_file())
}

/// Reads training and, if there are any, test images.
pub(crate) fn open(folder: &Path, version: &Version, limits: &DecodeLimits) -> Result<Found, DataError> {
    let name = folder_name(folder);
    let read = |files: &[&str], part: &str| -> Result<Dataset, DataError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for file in files {
            read_file(&folder.join(file), version, limits, &mut pixels, &mut labels)?;
        }
        let origin = format!("{name} {part}");
        let packed = Packed { origin, size: [SIDE; 2], channels: Channels::Rgb, pixels };
        Ok(Dataset::packed(packed, labels))
    };
    let numbers = || (0..version.classes).map(|class| class.to_string()).collect();
    let mut classes = names_file(&folder.join(version.names), version.classes)?.unwrap_or_else(numbers);
    classes.truncate(version.classes);
    let train = read(version.train, "train")?;
    let has_test = folder.join(version.test).is_file();
    let test = if has_test { Some(read(&[version.test], "test")?) } else { None };
    Ok(Found {
        name: name.clone(),
        classes,
        channels: Channels::Rgb,
        size: Some([SIDE; 2]),
        train,
        val: None,
        test,
        skipped: Vec::new(),
    })
}

fn read_file(
    path: &Path,
    version: &Version,
    limits: &DecodeLimits,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(DataError::io(path))?;
    let limit = limits.set_bytes;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(DataError::Limit {
            path: path.to_path_buf(),
            what: "bytes",
            limit,
            got: bytes.len() as u64,
        });
    }
    let record = version.labels + 3 * PLANE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let expected = format!("a multiple of {record}, the size of a record");
        return Err(DataError::format(path, "bytes", expected, bytes.len()));
    }
    pixels.reserve(bytes.len() / record * 3 * PLANE);
    for record in bytes.chunks_exact(record) {
        let (head, planes) = record.split_at(version.labels);
        let label = head[version.labels - 1];
        if usize::from(label) >= version.classes {
            return Err(DataError::format(path, "label", format!("below {}", version.classes), label));
        }
        labels.push(u32::from(label));
        pixels.extend((0..PLANE).flat_map(|i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8]) -> Vec<u8> {
        let planes = [10u8, 20, 30].into_iter().flat_map(|v| (0..PLANE).map(move |i| v + (i % 7) as u8));
        labels.iter().copied().chain(planes).collect()
    }

    #[test]
    fn both_versions_round_trip_and_damage_is_an_error() {
        for (version, head) in VERSIONS.iter().zip([&[3u8][..], &[19, 77]]) {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
            for file in version.train {
                write(file, &record(head).repeat(4));
            }
            let limits = DecodeLimits::default();
            let open = || open(folder.path(), detect(folder.path()).unwrap(), &limits);
            let found = open().unwrap();
            assert_eq!((found.classes.len(), found.train.len()), (version.classes, 4 * version.train.len()));
            assert!(found.test.is_none());
            assert_eq!(found.train.label(1), usize::from(head[version.labels - 1]));
            let image = found.train.image(1).unwrap();
            assert_eq!(image.pixels[..6], [10, 20, 30, 11, 21, 31]);
            let whole = record(head);
            for keep in [0, 1, 3072, whole.len() - 1] {
                write(version.test, &whole[..keep]);
                assert!(open().is_err(), "{keep} bytes");
            }
            let mut wrong = whole.clone();
            wrong[version.labels - 1] = 200;
            write(version.test, &wrong);
            assert!(open().err().unwrap().to_string().contains("label"));
            write(version.test, &whole);
            assert_eq!(open().unwrap().test.unwrap().len(), 1);
            write(version.names, b"one\ntwo\n");
            assert!(open().err().unwrap().to_string().contains("one a class"));
        }
    }
}
