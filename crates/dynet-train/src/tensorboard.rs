//! Event files that TensorBoard reads: TFRecord frames around `Event` messages with scalars.
//!
//! Formats: TensorFlow's `tsl/lib/io/record_writer` (length, masked CRC-32C of it, data, masked CRC-32C of it) and
//! `tensorflow/core/util/event.proto` (1 wall_time, 2 step, 3 file_version, 5 summary), `framework/summary.proto`
//! (1 value: 1 tag, 2 simple_value).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::TrainError;

pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new event file; TensorBoard joins several of a folder.
    pub(crate) fn create(folder: &Path) -> Result<Self, TrainError> {
        let (seconds, nanos) = now();
        let path = folder.join(format!("events.out.tfevents.{seconds}.{nanos:09}.dynet"));
        let file = File::create_new(&path).map_err(|e| TrainError::io(&path, e))?;
        let mut events = Self { path, file };
        events.write(&[wall_time(), bytes_field(3, b"brain.Event:2")].concat())?;
        Ok(events)
    }

    /// Adds one event with these scalars.
    pub(crate) fn scalars(&mut self, step: i64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        self.write(&event(wall_time(), step, scalars))
    }

    fn write(&mut self, message: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(&frame(message)).map_err(|e| TrainError::io(&self.path, e))
    }
}

fn now() -> (u64, u32) {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or((0, 0), |d| (d.as_secs(), d.subsec_nanos()))
}

fn wall_time() -> Vec<u8> {
    let (seconds, nanos) = now();
    // Field 1, wire type 1: eight bytes.
    let mut out = vec![1 << 3 | 1];
    out.extend((seconds as f64 + f64::from(nanos) * 1e-9).to_le_bytes());
    out
}

fn event(wall_time: Vec<u8>, step: i64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let value = |(tag, value): &(&str, f64)| {
        let mut inner = bytes_field(1, tag.as_bytes());
        // Field 2, wire type 5: four bytes.
        inner.push(2 << 3 | 5);
        inner.extend((*value as f32).to_le_bytes());
        bytes_field(1, &inner)
    };
    let summary: Vec<u8> = scalars.iter().flat_map(value).collect();
    let mut out = wall_time;
    out.push(2 << 3);
    out.extend(varint(step as u64));
    out.extend(bytes_field(5, &summary));
    out
}

fn bytes_field(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    out.extend(varint(bytes.len() as u64));
    out.extend(bytes);
    out
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn frame(message: &[u8]) -> Vec<u8> {
    let len = (message.len() as u64).to_le_bytes();
    let mut out = len.to_vec();
    out.extend(masked(crc32c(&len)).to_le_bytes());
    out.extend(message);
    out.extend(masked(crc32c(message)).to_le_bytes());
    out
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82F63B78.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

/// The rotation and offset that keep a checksum of data with checksums in it apart from chance.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_agree_with_rfc_3720() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, ascending.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    #[test]
    fn an_event_is_the_bytes_that_protobuf_makes() {
        let time = [&[9u8][..], &1.5f64.to_le_bytes()].concat();
        let got = event(time.clone(), 300, &[("a", 2.0)]);
        // step: field 2, 300 = 0xac 0x02; summary: field 5, 10 bytes; value: field 1, 8 bytes; tag "a"; 2.0f32.
        let rest = [0x10, 0xac, 0x02, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0, 0x40];
        assert_eq!(got, [time, rest.to_vec()].concat());
        let framed = frame(b"x");
        assert_eq!(framed.len(), 8 + 4 + 1 + 4);
        assert_eq!(framed[..8], 1u64.to_le_bytes());
    }
}
