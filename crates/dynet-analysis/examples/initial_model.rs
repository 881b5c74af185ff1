//! Writes a model file of a net of the zoo with initial weights, to time `dynet analyze` on without training:
//!
//! ```text
//! cargo run --release -p dynet-analysis --example initial_model -- mobilenet_v2 224 1000 model.safetensors
//! /usr/bin/time -v target/release/dynet analyze model.safetensors --data builtin --images 1000
//! ```
//!
//! Arguments: net, side of the images in pixels, classes, file, and K to make it dynamic.

use std::error::Error;
use std::path::Path;

use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{Channels, DynamicOptions, Interpolation, Model, Preprocessing, Weights};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [net, side, classes, file, experts @ ..] = &arguments[..] else {
        return Err("expected: NET SIDE CLASSES FILE [K]".into());
    };
    let (side, classes) = (side.parse()?, classes.parse()?);
    let mut options = ZooOptions { classes, size: [side, side], ..ZooOptions::default() };
    if let Some(experts) = experts.first() {
        options.dynamic = Some(DynamicOptions { experts: experts.parse()?, ..DynamicOptions::default() });
    }
    let net = zoo::build(net, &options)?;
    let preprocessing = Preprocessing {
        resize: None,
        crop: [side, side],
        interpolation: Interpolation::Bilinear,
        channels: Channels::Rgb,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    };
    let labels = (0..classes).map(|class| class.to_string()).collect();
    Model { weights: Weights::init(&net, 0), net, labels, preprocessing }.write(Path::new(file))?;
    Ok(())
}
