//! Held against numpy: `tools/golden/correlation.py` made the numbers.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

use dynet_analysis::{Bands, FeatureGram, channel_correlation, kernel_cosine};
use dynet_net::Shape;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/correlation.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn f32s(value: &Value) -> Vec<f32> {
    floats(value).into_iter().map(|v| v as f32).collect()
}

/// Products of 128 rows are added in f32: 1e-6 is 16 times its rounding.
const TOLERANCE: f64 = 1e-6;

fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*got) - expected).abs() < TOLERANCE, "{what} {i}: {got}, expected {expected}");
    }
}

#[test]
fn correlation_is_numpys() {
    let golden = &golden()["maps"];
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| golden["shape"][i].as_u64().unwrap() as usize);
    let shape = Shape::new(c, h, w);
    let got = channel_correlation(&f32s(&golden["values"]), n, shape, &Bands::default());
    assert_close(&got.r, &floats(&golden["r"]), "r");
    let rank = golden["effective_rank"].as_f64().unwrap();
    assert!((got.stats.effective_rank - rank).abs() < 1e-4, "{} of {rank}", got.stats.effective_rank);
}

#[test]
fn cosines_are_numpys() {
    let golden = &golden()["kernels"];
    let got = kernel_cosine(&f32s(&golden["values"]), 4, &Bands::default());
    assert_close(&got.r, &floats(&golden["cosine"]), "cosine");
}

#[test]
fn cka_is_numpys() {
    let golden = &golden()["cka"];
    let gram = |name: &str, c: usize| FeatureGram::new(&f32s(&golden[name]["values"]), c);
    let got = gram("x", 7).cka(&gram("y", 20));
    for (got, name) in [(got.linear, "linear"), (got.unbiased.unwrap(), "unbiased")] {
        let expected = golden[name].as_f64().unwrap();
        assert!((got - expected).abs() < TOLERANCE, "{name}: {got}, expected {expected}");
    }
}
