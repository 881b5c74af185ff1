//! `dynet analyze` and `dynet compare` as a user calls them.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Channels, DynamicOptions, Interpolation, Model, Preprocessing, Weights};

/// A small net for the built-in images with initial weights, in a file.
fn write_model(path: &Path, dynamic: bool) {
    let options = ZooOptions {
        width: 0.0625,
        classes: 10,
        channels: 1,
        size: [28, 28],
        small_stem: true,
        dynamic: dynamic.then(|| DynamicOptions { experts: 3, ..Default::default() }),
    };
    let net = zoo::build("resnet18", &options).unwrap();
    let preprocessing = Preprocessing {
        resize: None,
        crop: [28, 28],
        interpolation: Interpolation::Bilinear,
        channels: Channels::Gray,
        mean: vec![0.3],
        std: vec![0.3],
    };
    let labels = (0..10).map(|class| class.to_string()).collect();
    Model { weights: Weights::init(&net, 3), net, labels, preprocessing }.write(path).unwrap();
}

fn dynet(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dynet")).args(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn two_models_give_one_report_and_one_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    write_model(&place.join("dynamic.safetensors"), true);
    write_model(&place.join("twin.safetensors"), false);
    let models = ["dynamic.safetensors", "twin.safetensors"];
    let output = dynet(place, &["analyze", models[0], models[1], "--images", "20", "--out", "r.html"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for part in ["mean |r|", "dynamic", "twin", "report: r.html", "Feature maps of dynamic are"] {
        assert!(told.contains(part), "{part} not in {told}");
    }
    let page = fs::read_to_string(place.join("r.html")).unwrap();
    assert!(page.contains("20 images of builtin, validation images") && page.contains("id=\"layer-19\""));
    let json = fs::read_to_string(place.join("r_files/report.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["models"][0]["layers"].as_array().unwrap().len(), 20);

    let output = dynet(place, &["compare", models[0], models[1], "--images", "10", "--csv"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let csv = text(&output.stdout);
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(csv.starts_with("name,origin,net,dynamic,params,madds"), "{csv}");
    assert!(place.join("compare_files/compare.json").is_file() && place.join("compare.html").is_file());
}

#[test]
fn bad_input_is_named_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    write_model(&place.join("m.safetensors"), false);
    fs::write(place.join("junk.safetensors"), "junk").unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["analyze", "none.safetensors"], "none.safetensors"),
        (&["analyze", "junk.safetensors"], "junk.safetensors"),
        (&["analyze", "m.safetensors", "--bands", "0.2,0.4,0.7"], "expected 1 >= strong > middle > weak > 0"),
        (&["analyze", "m.safetensors", "--data", "nowhere"], "nowhere"),
        (&["compare"], "required"),
    ];
    for (arguments, expected) in cases {
        let output = dynet(place, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
