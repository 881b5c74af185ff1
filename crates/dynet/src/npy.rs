//! NumPy's `.npy` files of f32 in C order, little-endian: version 1.0 as written, 1.0 to 3.0 as read.
//!
//! Source: numpy.lib.format: magic `\x93NUMPY`, version, length of the header, a Python dict, values.

use std::fs;
use std::path::Path;

use crate::fault::Fault;

const MAGIC: &[u8] = b"\x93NUMPY";

/// An array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

impl Array {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, is no such file, is cut off or holds other than f32 in C order.
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        let refuse = |problem: String| Fault::Input(format!("{}: {problem}", path.display()));
        let bytes = fs::read(path).map_err(|e| refuse(e.to_string()))?;
        Self::parse(&bytes).map_err(refuse)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// If the system does not let it be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Fault> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let written = fs::write(&part, self.bytes()).and_then(|()| fs::rename(&part, path));
        written.map_err(|e| {
            // What is left of a failed write is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&part);
            Fault::Failure(format!("{}: {e}", path.display()))
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("expected a .npy file")?;
        let short = || "the file is cut off".to_owned();
        let (version, rest) = rest.split_at_checked(2).ok_or_else(short)?;
        let width = if version[0] == 1 { 2 } else { 4 };
        let (len, rest) = rest.split_at_checked(width).ok_or_else(short)?;
        let len = len.iter().rev().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
        let (header, values) = rest.split_at_checked(len).ok_or_else(short)?;
        let header = std::str::from_utf8(header).map_err(|e| e.to_string())?;
        let descr = field(header, "descr").map(|d| d.trim_matches(['\'', '"']));
        if descr != Some("<f4") {
            return Err(format!("expected values of type <f4, got {}", descr.unwrap_or("none")));
        }
        if field(header, "fortran_order") != Some("False") {
            return Err("expected C order".into());
        }
        let shape = field(header, "shape").and_then(sizes).ok_or("expected a shape")?;
        let count = shape.iter().try_fold(4_usize, |n, s| n.checked_mul(*s));
        if count != Some(values.len()) {
            return Err(format!("shape {shape:?} does not have {} bytes of values", values.len()));
        }
        let data = values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Self { shape, data })
    }

    fn bytes(&self) -> Vec<u8> {
        let sizes: String = self.shape.iter().map(|s| format!("{s}, ")).collect();
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}");
        // Values start on a multiple of 64 bytes; 10 bytes stand before the header, a line end closes it.
        let len = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
        header = format!("{header:<width$}\n", width = len - 1);
        let mut bytes = [MAGIC, &[1, 0], &(len as u16).to_le_bytes(), header.as_bytes()].concat();
        bytes.extend(self.data.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    }
}

/// The value of a key of the header's dict.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}'"))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    match rest.strip_prefix('(') {
        Some(tuple) => Some(tuple.split_once(')')?.0),
        None => Some(rest.split([',', '}']).next()?.trim()),
    }
}

fn sizes(tuple: &str) -> Option<Vec<usize>> {
    tuple.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back() {
        for shape in [vec![], vec![3], vec![2, 3, 1], vec![0, 4]] {
            let len = shape.iter().product();
            let array = Array { shape, data: (0..len).map(|i| i as f32 * 0.5).collect() };
            let bytes = array.bytes();
            assert_eq!(Array::parse(&bytes).unwrap(), array);
            assert_eq!((bytes.len() - 4 * len) % 64, 0);
            for cut in 0..bytes.len() {
                assert!(Array::parse(&bytes[..cut]).is_err(), "{cut} of {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn other_arrays_are_refused() {
        let array = Array { shape: vec![2], data: vec![1.0, 2.0] }.bytes();
        for (from, to, problem) in [("<f4", "<f8", "<f4"), ("False", "True ", "C order"), ("(2", "(3", "[3]")]
        {
            let at = array.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut bad = array.clone();
            bad[at..at + from.len()].copy_from_slice(to.as_bytes());
            let text = Array::parse(&bad).unwrap_err();
            assert!(text.contains(problem), "{text}");
        }
    }
}
