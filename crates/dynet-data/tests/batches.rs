//! Batches: the same bits whoever makes them, and augmentation that does what its settings say.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

use std::sync::Arc;

use dynet_data::*;
use dynet_net::{Channels, Interpolation, Preprocessing};

fn options(batch: usize, side: usize, augment: Option<Augment>) -> BatchOptions {
    let preprocessing = Preprocessing {
        resize: None,
        crop: [side, side],
        interpolation: Interpolation::Bilinear,
        channels: Channels::Gray,
        mean: vec![0.0],
        std: vec![1.0],
    };
    BatchOptions {
        batch,
        epoch: 0,
        seed: 5,
        shuffle: false,
        drop_last: false,
        start: 0,
        augment,
        preprocessing,
        workers: 0,
        ahead: 3,
        skip_bad: false,
    }
}

fn everything() -> Augment {
    Augment {
        crop: Crop::Resized { scale: [0.3, 1.0], ratio: [0.75, 1.33] },
        flip: 0.5,
        jitter: Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 },
        erase: 0.5,
        mixup: 0.2,
        cutmix: 1.0,
    }
}

fn builtin(count: usize) -> Arc<Dataset> {
    let splits = open(&Source::Builtin, &OpenOptions::default()).unwrap();
    Arc::new(splits.train.subset(&(0..count).collect::<Vec<_>>()))
}

/// Images of `side` x `side` of which image `i` has the value `10 i` everywhere and the label `i`.
fn flat(count: usize, side: usize) -> Arc<Dataset> {
    let image = |i: usize| Image {
        width: side,
        height: side,
        channels: Channels::Gray,
        pixels: vec![(10 * i) as u8; side * side],
    };
    Arc::new(Dataset::from_images((0..count).map(|i| (image(i), i)), "flat").unwrap())
}

fn take(dataset: &Arc<Dataset>, options: &BatchOptions) -> Vec<Batch> {
    batches(dataset, options).map(Result::unwrap).collect()
}

#[test]
fn bits_do_not_depend_on_workers_and_an_epoch_can_be_taken_up_in_the_middle() {
    let dataset = builtin(330);
    let mut wanted = BatchOptions { shuffle: true, ..options(32, 24, Some(everything())) };
    let inline = take(&dataset, &wanted);
    assert_eq!(inline.iter().map(|b| b.shape[0]).collect::<Vec<_>>(), [[32; 10].as_slice(), &[10]].concat());
    let mut seen: Vec<usize> = inline.iter().flat_map(|b| b.indices.clone()).collect();
    assert_ne!(seen, (0..330).collect::<Vec<_>>());
    seen.sort_unstable();
    assert_eq!(seen, (0..330).collect::<Vec<_>>());
    for (workers, ahead) in [(1, 0), (2, 3), (4, 1), (4, 100)] {
        (wanted.workers, wanted.ahead) = (workers, ahead);
        assert!(take(&dataset, &wanted) == inline, "{workers} workers, {ahead} ahead");
        wanted.start = 7;
        assert_eq!(batches(&dataset, &wanted).remaining(), 4);
        assert!(take(&dataset, &wanted) == inline[7..], "{workers} workers from batch 7");
        wanted.start = 0;
    }
    wanted.drop_last = true;
    assert!(take(&dataset, &wanted) == inline[..10]);
    for (epoch, seed) in [(1, 5), (0, 6)] {
        let other = take(&dataset, &BatchOptions { epoch, seed, ..wanted.clone() });
        assert_ne!(other[0].indices, inline[0].indices);
    }
}

#[test]
fn an_image_is_augmented_the_same_in_any_batch_and_order() {
    let dataset = builtin(40);
    let augment = Augment { mixup: 0.0, cutmix: 0.0, ..everything() };
    let by_index = |options: &BatchOptions| {
        let mut images: Vec<(usize, Vec<f32>)> = Vec::new();
        for batch in take(&dataset, options) {
            let one = batch.images.len() / batch.shape[0];
            images.extend(batch.indices.iter().copied().zip(batch.images.chunks(one).map(<[f32]>::to_vec)));
        }
        images.sort_by_key(|(index, _)| *index);
        images
    };
    let in_order = by_index(&options(7, 28, Some(augment.clone())));
    assert!(in_order == by_index(&BatchOptions { shuffle: true, ..options(16, 28, Some(augment.clone())) }));
    assert!(in_order != by_index(&BatchOptions { epoch: 1, ..options(7, 28, Some(augment)) }));
}

#[test]
fn shares_of_mixup_and_cutmix_are_those_of_the_pixels() {
    let dataset = flat(20, 16);
    for (mixup, cutmix) in [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)] {
        let augment = Augment { mixup, cutmix, ..Augment::default() };
        let batch = take(&dataset, &options(20, 16, Some(augment))).remove(0);
        let mut mixed = 0;
        for (i, (target, image)) in batch.targets.iter().zip(batch.images.chunks(256)).enumerate() {
            assert_eq!((target.a, target.b), (i, (i + 1) % 20));
            assert!((0.0..=1.0).contains(&target.share_a), "{target:?}");
            mixed += usize::from(target.share_a < 1.0);
            let value = |class: usize| (10 * class) as f32 / 255.0;
            let expected = target.share_a * value(target.a) + (1.0 - target.share_a) * value(target.b);
            let mean = image.iter().sum::<f32>() / 256.0;
            assert!((mean - expected).abs() < 1e-4, "image {i}: {target:?}: {mean} for {expected}");
            let pasted = |v: &f32| (v - value(target.a)).abs() < 1e-6 || (v - value(target.b)).abs() < 1e-6;
            assert!(mixup > 0.0 || image.iter().all(pasted), "cutmix keeps pixels as they are");
        }
        assert!(mixed > 10, "{mixed} of 20 mixed");
    }
    let plain = take(&dataset, &options(20, 16, Some(Augment::default()))).remove(0);
    assert!(plain.targets.iter().all(|t| t.a == t.b && t.share_a == 1.0));
}

#[test]
fn flips_and_erasings_come_as_often_as_asked() {
    const COUNT: usize = 4000;
    let pixels = [vec![0u8; 128], vec![255; 128]].concat();
    // Left half black, right half white.
    let pixels: Vec<u8> = (0..256).map(|i| pixels[i % 16 * 16]).collect();
    let image = Image { width: 16, height: 16, channels: Channels::Gray, pixels };
    let images = std::iter::repeat_n((image, 0), COUNT);
    let dataset = Arc::new(Dataset::from_images(images, "halves").unwrap());
    let count = |augment: Augment, test: &dyn Fn(&[f32]) -> bool| {
        let all = take(&dataset, &options(500, 16, Some(augment)));
        all.iter().flat_map(|b| b.images.chunks(256)).filter(|image| test(image)).count() as f64
            / COUNT as f64
    };
    // Four standard deviations of a share p of 4000 draws: 4 sqrt(p (1 - p) / 4000) <= 0.032.
    let flipped = count(Augment { flip: 0.3, ..Augment::default() }, &|image| image[0] == 1.0);
    assert!((flipped - 0.3).abs() < 0.03, "{flipped}");
    assert_eq!(count(Augment { flip: 1.0, ..Augment::default() }, &|image| image[0] == 1.0), 1.0);
    assert_eq!(count(Augment::default(), &|image| image[0] == 1.0), 0.0);
    let sum = |image: &[f32]| image.iter().sum::<f32>();
    let erased = count(Augment { erase: 0.5, ..Augment::default() }, &|image| sum(image) < 128.0);
    // An erased part may lie in the black half alone.
    assert!((0.3..0.53).contains(&erased), "{erased}");
}

#[test]
fn a_padded_crop_shifts_by_at_most_the_padding_and_reaches_all_shifts() {
    let pixels = (0..64).map(|i| i as u8 + 1).collect();
    let image = Image { width: 8, height: 8, channels: Channels::Gray, pixels };
    let dataset = Arc::new(Dataset::from_images(std::iter::repeat_n((image, 0), 600), "ramp").unwrap());
    let augment = Augment { crop: Crop::Pad { pixels: 2 }, ..Augment::default() };
    let mut shifts = std::collections::HashSet::new();
    for image in take(&dataset, &options(600, 8, Some(augment)))[0].images.chunks(64) {
        let at = |y: i64, x: i64| {
            let inside = (0..8).contains(&y) && (0..8).contains(&x);
            if inside { (y * 8 + x + 1) as f32 / 255.0 } else { 0.0 }
        };
        let fits = |(dy, dx): &(i64, i64)| (0..64).all(|i| image[i as usize] == at(i / 8 + dy, i % 8 + dx));
        let all = (-2..=2).flat_map(|dy| (-2..=2).map(move |dx| (dy, dx)));
        shifts.insert(all.into_iter().find(fits).expect("a shift of at most 2"));
    }
    assert_eq!(shifts.len(), 25);
}

#[test]
fn settings_that_cannot_be_are_the_first_item() {
    let dataset = flat(4, 4);
    let with = |change: fn(&mut BatchOptions)| {
        let mut options = BatchOptions { workers: 2, ..options(2, 4, Some(Augment::default())) };
        change(&mut options);
        let mut batches = batches(&dataset, &options);
        let error = batches.next().unwrap().unwrap_err().to_string();
        assert!(batches.next().is_none(), "nothing follows an error");
        error
    };
    assert!(with(|o| o.batch = 0).contains("batch"));
    assert!(with(|o| o.preprocessing.std = vec![]).contains("std"));
    assert!(with(|o| o.augment.as_mut().unwrap().flip = 2.0).contains("augment.flip"));
    assert!(with(|o| o.augment.as_mut().unwrap().mixup = f32::NAN).contains("augment.mixup"));
    assert!(with(|o| o.augment.as_mut().unwrap().jitter.hue = 0.6).contains("augment.jitter.hue"));
    let backwards = Crop::Resized { scale: [0.9, 0.1], ratio: [1.0, 1.0] };
    let augment = Augment { crop: backwards, ..Augment::default() };
    assert!(augment.check().unwrap_err().to_string().contains("scale"));
}

#[test]
fn an_image_that_cannot_be_read_ends_the_batches_or_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        std::fs::create_dir_all(folder.path().join("train").join(class)).unwrap();
        for i in 0..8u8 {
            let path = folder.path().join(format!("train/{class}/{i}.png"));
            image::GrayImage::from_pixel(6, 6, image::Luma([i])).save(path).unwrap();
        }
    }
    let source = Source::Path(folder.path().into());
    let splits = open(&source, &OpenOptions { val_fraction: 0.01, ..OpenOptions::default() }).unwrap();
    let bad = splits.train.name_of(3);
    std::fs::write(&bad, b"no image").unwrap();
    for workers in [0, 2] {
        let strict = BatchOptions { workers, ..options(3, 6, None) };
        let items: Vec<_> = batches(&splits.train, &strict).collect();
        assert_eq!(items.len(), 2);
        assert!(items[1].as_ref().unwrap_err().to_string().contains(&bad));
        let all = take(&splits.train, &BatchOptions { skip_bad: true, ..strict });
        assert_eq!(all.iter().map(|b| b.shape[0]).sum::<usize>(), splits.train.len() - 1);
        assert_eq!(all[1].skipped[0].path.display().to_string(), bad);
    }
}

#[test]
fn statistics_are_those_of_all_pixels() {
    let (mean, std) = channel_statistics(&flat(3, 4), 1000).unwrap();
    assert!((mean[0] - 10.0 / 255.0).abs() < 1e-6);
    assert!((std[0] - (200.0f32 / 3.0).sqrt() / 255.0).abs() < 1e-6);
    assert!(channel_statistics(&flat(3, 4), 0).is_err());
}
