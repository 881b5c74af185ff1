//! Whole runs of a tiny net on images made on the fly.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dynet_net::Model;
use dynet_train::{
    Config, EpochReport, EpochSeconds, Observer, Outcome, RunFolder, RunInfo, Setup, Silent, StepReport,
    Summary, TrainError, train,
};

/// Burn's random generator is one for the whole process: runs take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A folder with images in `data/`, held while it is one's turn.
struct Place {
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    /// 24 images of each of two classes, 8 x 8: stripes along and across, with noise.
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let mut noise = 1u32;
        for (class, name) in ["across", "along"].into_iter().enumerate() {
            fs::create_dir_all(place.data().join(name)).unwrap();
            for i in 0..24 {
                let image = image::GrayImage::from_fn(8, 8, |x, y| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let stripe = if class == 0 { y } else { x };
                    image::Luma([(stripe % 2 * 120 + (noise >> 16) % 100) as u8])
                });
                image.save(place.data().join(format!("{name}/{i}.png"))).unwrap();
            }
        }
        place
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A recipe with everything that has a state, or is random, or changes over time.
    fn recipe(&self, more: &[&str]) -> Config {
        let mut sets: Vec<String> = [
            "data.val_fraction=0.25",
            "model.net=resnet18",
            "model.width=0.03",
            "model.dynamic.experts=2",
            "model.dynamic.dropout=0.3",
            "run.epochs=3",
            "run.batch=4",
            "run.seed=5",
            "optimizer.ema=0.8",
            "optimizer.learning_rate=0.05",
            "optimizer.label_smoothing=0.1",
            "schedule.temperature_start=8",
            "schedule.temperature_epochs=2",
            "augment.flip=0.5",
            "augment.crop={pad={pixels=1}}",
            "augment.mixup=0.4",
        ]
        .map(str::to_owned)
        .into();
        sets.extend(more.iter().map(|s| (*s).to_owned()));
        let mut config = Config::load(None, &sets).unwrap();
        config.data.source = self.data().display().to_string();
        config
    }

    fn run_folder(&self, name: &str, config: &Config) -> RunFolder {
        RunFolder::create(&self.folder.path().join(name), config).unwrap()
    }
}

/// Sets the stop flag after a step.
struct StopAfter<'a> {
    step: usize,
    stop: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn started(&mut self, _: &RunInfo) {}
    fn step(&mut self, report: &StepReport) {
        self.stop.store(report.step == self.step, Ordering::Relaxed);
    }
    fn epoch(&mut self, _: &EpochReport, _: &EpochSeconds) {}
    fn message(&mut self, _: &str) {}
}

fn stop_after(config: &Config, folder: &RunFolder, step: usize) {
    let stop = AtomicBool::new(false);
    let setup = Setup::new(config).unwrap();
    let outcome = train(config, setup, folder, &mut StopAfter { step, stop: &stop }, &stop).unwrap();
    assert!(matches!(outcome, Outcome::Stopped { step: at, .. } if at == step), "{outcome:?}");
}

fn finish(config: &Config, folder: &RunFolder, observer: &mut dyn Observer) -> Summary {
    let setup = Setup::new(config).unwrap();
    match train(config, setup, folder, observer, &AtomicBool::new(false)).unwrap() {
        Outcome::Finished(summary) => summary,
        Outcome::Stopped { step, .. } => panic!("stopped after step {step}"),
    }
}

fn bytes(folder: &RunFolder, name: &str) -> Vec<u8> {
    fs::read(folder.path().join(name)).unwrap()
}

/// Updates of a finished run, from the last line of its metrics.
fn steps(folder: &RunFolder) -> usize {
    let text = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    text.lines().last().unwrap().split(',').nth(1).unwrap().parse().unwrap()
}

/// A summary without what depends on the clock and the place.
fn numbers(summary: Summary) -> Summary {
    Summary { train_seconds: 0.0, folder: PathBuf::new(), best: PathBuf::new(), ..summary }
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let place = Place::new();
    for (name, more) in [("sgd", vec![]), ("adamw", vec!["optimizer.rule=adamw", "run.accumulate=2"])] {
        let config = place.recipe(&more);
        let straight = place.run_folder(name, &config);
        let summary = finish(&config, &straight, &mut Silent);
        let parts = place.run_folder(&format!("{name}-parts"), &config);
        let per_epoch = steps(&straight) / 3;
        // Within the first epoch, at the end of it, within the last one.
        for at in [1, per_epoch, 2 * per_epoch + 1] {
            let (folder, config) = RunFolder::open(parts.path()).unwrap();
            stop_after(&config, &folder, at);
        }
        let (parts, read) = RunFolder::open(parts.path()).unwrap();
        assert_eq!(read, config);
        let other = finish(&read, &parts, &mut Silent);
        for file in ["weights/best.safetensors", "weights/last.safetensors", "metrics.csv"] {
            assert!(bytes(&straight, file) == bytes(&parts, file), "{name}: {file} differs");
        }
        assert_eq!(numbers(summary), numbers(other));
    }
}

#[test]
fn a_run_leaves_its_files_and_is_not_run_twice() {
    let place = Place::new();
    let config = place.recipe(&["run.epochs=2", "model.twin=true"]);
    let folder = place.run_folder("run", &config);
    let summary = finish(&config, &folder, &mut Silent);
    for file in [
        "config.toml",
        "environment.json",
        "metrics.csv",
        "metrics.jsonl",
        "summary.json",
        "log.txt",
        "plots/loss.svg",
        "plots/accuracy.svg",
        "weights/last.safetensors",
    ] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
    let files = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(files(folder.path()).iter().any(|name| name.starts_with("events.out.tfevents.")));
    assert_eq!(files(&folder.path().join("checkpoints")).len(), 2);
    let model = Model::read(&folder.best()).unwrap();
    assert!(!model.net.is_dynamic());
    assert_eq!(model.labels, ["across", "along"]);
    assert!(summary.test_top1.is_some() && summary.train_seconds > 0.0);
    // The test set is touched once: the result is there without its images.
    let setup = Setup::new(&config).unwrap();
    fs::remove_dir_all(place.data()).unwrap();
    let again = train(&config, setup, &folder, &mut Silent, &AtomicBool::new(false)).unwrap();
    assert!(matches!(again, Outcome::Finished(s) if s == summary));
}

#[test]
fn the_bits_do_not_depend_on_the_worker_threads() {
    let place = Place::new();
    let mut files = Vec::new();
    for workers in ["data.workers=0", "data.workers=3"] {
        let config = place.recipe(&[workers]);
        let folder = place.run_folder(workers, &config);
        finish(&config, &folder, &mut Silent);
        files.push(bytes(&folder, "weights/last.safetensors"));
    }
    assert!(files[0] == files[1]);
}

#[test]
fn a_run_that_diverges_stops_with_the_step_and_the_last_good_checkpoint() {
    let place = Place::new();
    // Each update multiplies the weights by 1 - 1e4 x 1e3: they overflow within a dozen.
    let more = [
        "optimizer.weight_decay=1000",
        "optimizer.learning_rate=1e4",
        "optimizer.ema=0",
        "schedule.warmup_epochs=0",
    ];
    let config = place.recipe(&more);
    let folder = place.run_folder("run", &config);
    stop_after(&config, &folder, 1);
    let setup = Setup::new(&config).unwrap();
    let error = train(&config, setup, &folder, &mut Silent, &AtomicBool::new(false)).unwrap_err();
    let TrainError::NotFinite { step, advice, .. } = &error else { panic!("{error}") };
    assert!((2..14).contains(step), "{error}");
    assert!(advice.contains("checkpoints/step-00000"), "{error}");
    assert!(!error.is_input());
    assert!(fs::read_to_string(folder.path().join("log.txt")).unwrap().contains(&error.to_string()));
    // What the folder holds is good.
    if folder.last().is_file() {
        let model = Model::read(&folder.last()).unwrap();
        assert!(model.weights.iter().all(|(_, tensor)| tensor.data.iter().all(|v| v.is_finite())));
    }
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before_it() {
    /// Messages, and the epochs that were done at the start.
    struct Notes(Vec<String>, usize);
    impl Observer for Notes {
        fn started(&mut self, info: &RunInfo) {
            self.1 = info.epochs[1];
        }
        fn step(&mut self, _: &StepReport) {}
        fn epoch(&mut self, _: &EpochReport, _: &EpochSeconds) {}
        fn message(&mut self, text: &str) {
            self.0.push(text.into());
        }
    }
    let place = Place::new();
    let config = place.recipe(&["run.test=false"]);
    let straight = place.run_folder("straight", &config);
    finish(&config, &straight, &mut Silent);
    let folder = place.run_folder("damaged", &config);
    let second_epoch = steps(&straight) / 3 * 2;
    stop_after(&config, &folder, second_epoch);
    let newest = folder.path().join(format!("checkpoints/step-{second_epoch:09}.safetensors"));
    let file = fs::read(&newest).unwrap();
    fs::write(&newest, &file[..file.len() - 1]).unwrap();
    let mut notes = Notes(Vec::new(), 0);
    finish(&config, &folder, &mut notes);
    assert_eq!((notes.0.len(), notes.1), (1, 1), "{:?}", notes.0);
    assert!(notes.0[0].contains(&newest.display().to_string()), "{}", notes.0[0]);
    assert!(bytes(&straight, "weights/last.safetensors") == bytes(&folder, "weights/last.safetensors"));
}

#[test]
fn what_does_not_go_together_is_told_before_the_run() {
    let place = Place::new();
    let cases = [
        ("run.batch=1000", "number of training images"),
        ("model.net=resnet19", "resnet18"),
        ("augment.flip=2", "augment.flip"),
    ];
    for (set, part) in cases {
        let error = Setup::new(&place.recipe(&[set])).err().map(|e| (e.to_string(), e.is_input()));
        assert!(
            error.as_ref().is_some_and(|(text, input)| text.contains(part) && *input),
            "{set}: {error:?}"
        );
    }
    let mut config = place.recipe(&[]);
    config.data.source = "no/such/folder".into();
    assert!(Setup::new(&config).is_err_and(|e| e.to_string().contains("no/such/folder")));
}
