//! The path from a decoded image to a net's input, held against torchvision.

use dynet_data::{Image, preprocess};
use dynet_net::{Channels, Interpolation, Preprocessing};

/// The formula of `tools/golden/resize.py`.
fn source(height: usize, width: usize, channels: Channels) -> Image {
    let at = |y, x, c| ((x * 5 + y * 3 + c * 61 + (x * y) % 11 * 9) % 256) as u8;
    let count = channels.count();
    let pixels = (0..height * width * count).map(|i| at(i / count / width, i / count % width, i % count));
    Image { height, width, channels, pixels: pixels.collect() }
}

fn plain(resize: Option<usize>, crop: [usize; 2], channels: Channels) -> Preprocessing {
    let count = channels.count();
    let interpolation = Interpolation::default();
    Preprocessing { resize, crop, interpolation, channels, mean: vec![0.0; count], std: vec![1.0; count] }
}

#[test]
fn resize_and_crop_are_torchvisions_within_one_in_255() {
    let golden = include_str!("golden/resize.txt");
    for line in golden.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| fields[i].parse::<usize>().unwrap();
        let channels = if number(2) == 1 { Channels::Gray } else { Channels::Rgb };
        let mut p = plain(fields[4].parse().ok(), [number(5), number(6)], channels);
        p.interpolation = match fields[3] {
            "nearest" => Interpolation::Nearest,
            "bilinear" => Interpolation::Bilinear,
            _ => Interpolation::Bicubic,
        };
        let got = preprocess(&source(number(0), number(1), channels), &p);
        let byte = |i: usize| u8::from_str_radix(&fields[7][2 * i..2 * i + 2], 16).unwrap();
        let (count, plane) = (number(2), number(5) * number(6));
        assert_eq!(got.len(), count * plane);
        let distance = |i: usize| (got[i] * 255.0 - f32::from(byte(i % plane * count + i / plane))).abs();
        let (worst, at) =
            (0..got.len()).map(|i| (distance(i), i)).fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a });
        let differing = (0..got.len()).filter(|&i| distance(i) > 0.01).count();
        eprintln!("{differing} of {} values differ, by at most {worst}: {line:.40}", got.len());
        assert!(worst < 1.01, "value {at} differs by {worst}: {line:.60}");
    }
}

#[test]
fn channels_are_converted_and_normalised() {
    let colour = Image { height: 1, width: 1, channels: Channels::Rgb, pixels: vec![255, 128, 0] };
    let mut p = plain(None, [1, 1], Channels::Gray);
    // Pillow: (255 * 19595 + 128 * 38470 + 0x8000) >> 16 = 151.
    assert_eq!(preprocess(&colour, &p), [151.0 / 255.0]);
    (p.mean, p.std) = (vec![0.5], vec![0.25]);
    assert_eq!(preprocess(&colour, &p), [(151.0 / 255.0 - 0.5) / 0.25]);
    let gray = Image { height: 1, width: 1, channels: Channels::Gray, pixels: vec![51] };
    assert_eq!(preprocess(&gray, &plain(None, [1, 1], Channels::Rgb)), [0.2; 3]);
}

#[test]
fn without_a_resize_the_crop_just_fits() {
    let image = source(20, 40, Channels::Gray);
    let same = preprocess(&image, &plain(None, [20, 40], Channels::Gray));
    assert_eq!(same[45], f32::from(image.pixels[45]) / 255.0);
    for crop in [[10, 10], [64, 3], [1, 1], [33, 77]] {
        let got = preprocess(&image, &plain(None, crop, Channels::Rgb));
        assert_eq!(got.len(), 3 * crop[0] * crop[1]);
    }
    // Degenerate images and extreme shapes are no panic.
    let empty = Image { height: 0, width: 0, channels: Channels::Gray, pixels: vec![] };
    assert_eq!(preprocess(&empty, &plain(Some(4), [2, 2], Channels::Rgb)), [0.0; 12]);
    let thin = source(1, 3000, Channels::Gray);
    assert_eq!(preprocess(&thin, &plain(Some(8), [8, 8], Channels::Gray)).len(), 64);
}
