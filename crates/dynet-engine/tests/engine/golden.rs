//! Every net of the zoo gives PyTorch's logits for the same weights and images.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dynet_engine::{Options, Plan, Session};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{DynamicOptions, formula};
use serde_json::Value;

use crate::common::error;

/// PyTorch's own f32 is up to 1e-5 from f64 on these nets; Winograd's transforms are some times that.
const TOLERANCE: f64 = 1e-4;

#[test]
fn every_net_gives_the_logits_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/net_logits.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let (size, classes) = (number(&golden["size"]), number(&golden["classes"]));
    let nets = golden["nets"].as_array().unwrap();
    assert!(nets.len() >= zoo::models().len(), "logits of {} nets", nets.len());
    for net in nets {
        let (name, experts) = (net["name"].as_str().unwrap(), number(&net["experts"]));
        let dynamic = (experts > 0).then(|| DynamicOptions { experts, ..DynamicOptions::default() });
        let options = ZooOptions { classes, size: [size, size], dynamic, ..ZooOptions::default() };
        let net_of_zoo = zoo::build(name, &options).unwrap();
        let weights = formula::weights(&net_of_zoo, net["gain"].as_f64().unwrap());
        let plan = Plan::compile(&net_of_zoo, &weights, &Options::default()).unwrap();
        let mut session = Session::new(Arc::new(plan), 2).unwrap();
        for (index, logits) in net["logits"].as_array().unwrap().iter().enumerate() {
            let want: Vec<f64> = logits.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            let got = session.run(&formula::image(net_of_zoo.input(), index)).unwrap();
            let error = error(got, &want);
            assert!(error < TOLERANCE, "{name}, experts {experts}, image {index}: error {error:.1e}");
        }
    }
}
