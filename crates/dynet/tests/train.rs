//! `dynet train`, `eval` and `predict`, run as a user runs them, on tiny images made on the fly.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder to work in, with images in `data/`.
struct Place(tempfile::TempDir);

impl Place {
    /// 16 images of each of three classes, 8 x 8: dark, grey and bright, with noise.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let mut noise = 1u32;
        for (class, name) in ["bright", "dark", "grey"].into_iter().enumerate() {
            fs::create_dir_all(place.path("data").join(name)).unwrap();
            for i in 0..16 {
                let image = image::GrayImage::from_fn(8, 8, |_, _| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    image::Luma([[200, 0, 100][class] + ((noise >> 16) % 50) as u8])
                });
                image.save(place.path("data").join(format!("{name}/{i}.png"))).unwrap();
            }
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynet"));
        command.args(args).current_dir(self.0.path());
        command
    }

    fn dynet(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Trains a tiny net for two epochs.
    fn train(&self, more: &[&str]) -> Output {
        self.dynet(&[&TRAIN[..], &["--epochs", "2"], more].concat())
    }
}

/// Without epochs.
const TRAIN: [&str; 12] = [
    "train",
    "--data",
    "data",
    "--model",
    "resnet18",
    "--dynamic",
    "2",
    "--width",
    "0.02",
    "--set",
    "run.batch=8",
    "--seed=1",
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn stdout_of(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn assert_input_error(output: &Output, part: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(part), "{part}: {stderr}");
}

#[test]
fn a_net_and_its_twin_are_trained_compared_evaluated_and_used() {
    let place = Place::new();
    let told = stdout_of(place.train(&["--twin", "--name", "r"]));
    for part in
        ["epoch   1/2", "epoch   2/2", "images/s", "test top-1", "ms an image", "runs/r-twin", "points"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains('\u{1b}'), "no terminal, no bar");
    let config = fs::read_to_string(place.path("runs/r-twin/config.toml")).unwrap();
    assert!(config.contains("twin = true") && config.contains("seed = 1"), "{config}");

    let told = stdout_of(place.dynet(&["eval", "runs/r", "--data", "data"]));
    for part in ["all images: 48", "top-1", "top-5", "recall", "precision", "class \\ answer"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let json = stdout_of(place.dynet(&["eval", "runs/r", "--data", "data", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["images"], 48);
    let hits: u64 = (0..3).map(|class| value["confusion"][class][class].as_u64().unwrap()).sum();
    assert_eq!(value["top1"].as_f64().unwrap(), hits as f64 / 48.0);

    let formats = ["eval", "runs/r", "--data", "data", "--json", "--experts", "int8", "--precision", "bf16"];
    let rounded: serde_json::Value = serde_json::from_str(&stdout_of(place.dynet(&formats))).unwrap();
    for (value, formats) in [(&value, ["f32", "f32"]), (&rounded, ["int8", "bf16"])] {
        assert_eq!([&value["experts"], &value["precision"]], formats);
    }
    let losses = [&value, &rounded].map(|value| value["loss"].as_f64().unwrap());
    assert!(losses[0] != losses[1] && (losses[0] - losses[1]).abs() < 0.1 * losses[0], "{losses:?}");

    let model = "runs/r-twin/weights/last.safetensors";
    let told = stdout_of(place.dynet(&["predict", model, "data/dark", "data/grey/3.png"]));
    assert_eq!(told.lines().count(), 2 + 16 + 1, "{told}");
    let one =
        ["predict", model, "data/dark/0.png", "--csv", "--top", "2", "--precision", "bf16", "--threads", "1"];
    let told = stdout_of(place.dynet(&one));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "path,rank,class,probability"));
    assert!(lines[2].starts_with("data/dark/0.png,2,"), "{told}");
}

#[test]
fn lines_of_json_hold_every_epoch_and_the_result() {
    let place = Place::new();
    let told = stdout_of(place.train(&["--json", "--name", "r"]));
    let lines: Vec<serde_json::Value> = told.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let events: Vec<&str> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["started", "epoch", "epoch", "finished"]);
    assert!(lines[3]["summary"]["test_top1"].is_f64() && lines[3]["ms_an_image"].is_f64(), "{}", lines[3]);
    let quiet = stdout_of(place.train(&["--quiet"]));
    assert!(!quiet.contains("epoch") && quiet.contains("test top-1"), "{quiet}");
}

#[test]
fn what_cannot_be_read_does_not_stop_the_others_and_shows_in_the_exit_code() {
    let place = Place::new();
    let whole = fs::read(place.path("data/dark/0.png")).unwrap();
    fs::write(place.path("data/dark/bad.png"), &whole[..whole.len() / 2]).unwrap();
    assert_input_error(&place.train(&["--name", "r"]), "bad.png");
    assert!(!place.path("runs/r/weights/best.safetensors").exists());
    let told = stdout_of(place.train(&["--name", "skipping", "--skip-bad"]));
    assert!(told.contains("bad.png") && told.contains("left out 1 images"), "{told}");
    let log = fs::read_to_string(place.path("runs/skipping/log.txt")).unwrap();
    assert!(log.contains("bad.png"), "{log}");

    let predict = ["predict", "runs/skipping", "data/dark", "missing.png", "--jsonl"];
    let output = place.dynet(&predict);
    assert_input_error(&output, "2 of 18 images could not be read");
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 18);
    let bad: Vec<&str> =
        lines.iter().filter(|l| l["error"].is_string()).map(|l| l["path"].as_str().unwrap()).collect();
    assert_eq!(bad, ["data/dark/bad.png", "missing.png"]);
    assert_input_error(&place.dynet(&["eval", "runs/skipping", "--data", "data"]), "bad.png");
    stdout_of(place.dynet(&["eval", "runs/skipping", "--data", "data", "--skip-bad"]));
}

#[test]
fn wrong_use_is_told_with_what_was_expected() {
    let place = Place::new();
    let cases: [(&[&str], &str); 13] = [
        (&["train", "--set", "run.epoch=1"], "did you mean `epochs`"),
        (&["train", "--epochs", "0"], "run.epochs: expected 1 to"),
        (&["train", "--model", "resnet19"], "resnet18"),
        (&["train", "--model", "resnet18", "--twin", "--data", "data", "--set", "run.batch=8"], "is static"),
        (&["train", "--data", "nowhere"], "nowhere"),
        (&["train", "--name", "a/b"], "without slashes"),
        (&["train", "--resume", "none"], "no config.toml"),
        (&["train", "--resume", "none", "--seed", "3"], "--seed"),
        (&["train", "--device", "gpu"], "expected cpu, wgpu, cuda, rocm or metal"),
        (&["train", "--device", "cpu:1"], "expected an index below 1"),
        (&["eval", "data/dark/0.png"], "data/dark/0.png"),
        (&["eval", "none", "--device", "wgpu", "--experts", "int8"], "--experts: expected --device cpu"),
        (&["predict", "none", "data", "--threads", "0"], "--threads: expected 1 to 64"),
    ];
    for (args, part) in cases {
        assert_input_error(&place.dynet(args), part);
    }
    assert!(!place.path("runs").exists(), "nothing is left of a run that could not be");
}

/// Ctrl-C in the middle of a run, then `--resume`, as the message says.
#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on_and_ends_as_if_nothing_had_been() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    let args = [&TRAIN[..], &["--epochs", "40"]].concat();
    stdout_of(place.dynet(&[&args[..], &["--name", "straight", "--quiet"]].concat()));
    let mut child = place
        .command(&[&args[..], &["--name", "parts"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("epoch   2/40") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the run ended");
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("go on with: dynet train --resume runs/parts"), "{stderr}");
    let saved = fs::read_dir(place.path("runs/parts/checkpoints")).unwrap();
    assert!(saved.count() > 0, "the first interrupt saves");
    stdout_of(place.dynet(&["train", "--resume", "runs/parts", "--quiet", "--device", "cpu"]));
    let file = |run: &str, name: &str| fs::read(Path::new(&place.path("runs")).join(run).join(name)).unwrap();
    for name in ["weights/last.safetensors", "weights/best.safetensors", "metrics.csv"] {
        assert!(file("straight", name) == file("parts", name), "{name}");
    }
}

/// A device that this build leaves out is told with the feature that brings it, and a run says what it ran on.
#[test]
fn devices_that_are_not_built_are_told_with_their_feature() {
    let place = Place::new();
    let built = [
        ("wgpu", cfg!(feature = "wgpu")),
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("metal", cfg!(feature = "metal")),
    ];
    stdout_of(place.train(&["--name", "r", "--device", "cpu"]));
    let environment = fs::read_to_string(place.path("runs/r/environment.json")).unwrap();
    assert!(environment.contains(r#""device": "cpu""#), "{environment}");
    for (name, _) in built.iter().filter(|(_, built)| !built) {
        let part = format!("--features {name}");
        assert_input_error(&place.train(&["--name", "none", "--device", name]), &part);
        assert_input_error(&place.dynet(&["eval", "runs/r", "--data", "data", "--device", name]), &part);
        assert_input_error(&place.dynet(&["bench", "resnet18", "--train", "--device", name]), &part);
    }
    assert!(!place.path("runs/none").exists(), "nothing is left of a run that could not be");
}

/// The run waits here for a recipe that nobody writes, so that only the second Ctrl-C can end it.
#[cfg(unix)]
#[test]
fn the_second_interrupt_leaves_at_once() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    let recipe = place.path("recipe.toml");
    assert!(Command::new("mkfifo").arg(&recipe).status().unwrap().success());
    let mut child =
        place.command(&["train", "--config", "recipe.toml"]).stderr(Stdio::piped()).spawn().unwrap();
    // Opens once the run reads, which it does with its handler in place.
    let writer = fs::OpenOptions::new().write(true).open(&recipe).unwrap();
    let id = child.id().to_string();
    let interrupt = || {
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    };
    interrupt();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = lines.find(|line| line.as_ref().unwrap().contains("once more leaves at once"));
    assert!(told.is_some(), "the first interrupt says what the second does");
    interrupt();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(writer);
}
