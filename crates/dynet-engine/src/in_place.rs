//! Convolutions whose residual lies where their output will.
//!
//! A map that is added for the last time is read where the sum is stored: the step moves two thirds of the lines, since
//! an output that is not in the cache is fetched before it is written, and the maps of a net need less cache.

use dynet_kernels::{Conv, Storage};

use crate::layout::Lifetime;
use crate::plan::{Precision, grid};
use crate::step::{ConvStep, Kind, Reading, Step, View};

/// Lets such convolutions add in place. The lifetimes of all buffers are known.
pub(crate) fn add(steps: &mut [Step], buffers: &mut [Lifetime]) {
    for (at, step) in steps.iter_mut().enumerate() {
        let output = step.output;
        let Some(residual) = added(step).filter(|residual| is_last(*residual, output, at, buffers)) else {
            continue;
        };
        let Kind::Conv(conv) = &mut step.kind else { continue };
        if !is_in_pieces(conv, output) {
            conv.in_place = true;
            buffers[output.buffer].within = Some(residual.buffer);
        }
    }
}

/// What a convolution adds and does not read otherwise.
fn added(step: &Step) -> Option<View> {
    let Kind::Conv(conv) = &step.kind else { return None };
    let residual = conv.residual?;
    let reads = step.reads();
    (reads.iter().filter(|view| view.buffer == residual.buffer).count() == 1).then_some(residual)
}

/// Whether a map ends with the step at `at`, as large as its output, which begins there.
fn is_last(residual: View, output: View, at: usize, buffers: &[Lifetime]) -> bool {
    let [from, to] = [residual, output].map(|view| buffers[view.buffer]);
    (View { buffer: output.buffer, ..residual }) == output
        && from.len == to.len
        && from.last == at
        && to.first == at
}

/// Whether sums so far lie in the output.
fn is_in_pieces(conv: &ConvStep, output: View) -> bool {
    let w = &conv.weights;
    let fused = conv.head.is_some() || conv.input_scale.is_some() || w.storage() != Storage::F32;
    let product = matches!(conv.reading, Reading::Pointwise | Reading::Table(_));
    product
        && conv.precision == Precision::F32
        && (Conv::in_pieces(w, fused, conv.pixel_block)
            || conv.fuses_for_images_at_once(&grid(conv, output, 1)))
}

#[cfg(test)]
mod tests {
    use dynet_net::{DynamicOptions, Weights, zoo};

    use super::*;
    use crate::plan::{Options, Plan};

    /// Names of the steps that add a map, and whether they do so in place.
    fn steps(dynamic: Option<DynamicOptions>, tapped: &[&str]) -> Vec<(String, bool)> {
        let options = zoo::ZooOptions { size: [64, 64], dynamic, ..Default::default() };
        let net = zoo::build("resnet18", &options).unwrap();
        let is_tapped = |name: &str| tapped.contains(&name);
        let taps = net.ids().filter(|id| is_tapped(&net.node(*id).name)).collect();
        let options = Options { taps, ..Options::default() };
        let plan = Plan::compile(&net, &Weights::init(&net, 0), &options).unwrap();
        let adds = |step: &Step| match &step.kind {
            Kind::Conv(conv) if conv.residual.is_some() => Some((step.name.clone(), conv.in_place)),
            _ => None,
        };
        plan.steps.iter().filter_map(adds).collect()
    }

    #[test]
    fn maps_that_nobody_reads_later_are_added_in_place() {
        let all = steps(None, &[]);
        assert!(all.len() == 8 && all.iter().all(|(_, in_place)| *in_place), "{all:?}");
        // The output of the first block is what the second one adds.
        let tapped = steps(None, &["layer1.0.add.relu"]);
        let others: Vec<_> = tapped.iter().filter(|(_, in_place)| !in_place).collect();
        assert!(others.len() == 1 && others[0].0.starts_with("layer1.1.conv2"), "{tapped:?}");
    }

    #[test]
    fn weights_that_are_fused_in_pieces_do_not_add_in_place() {
        let all = steps(Some(DynamicOptions::default()), &[]);
        let of = |layer: &str| -> Vec<bool> {
            all.iter().filter(|(name, _)| name.starts_with(layer)).map(|(_, in_place)| *in_place).collect()
        };
        // 16 x 16 pixels by Winograd's filtering, 2 x 2 as products of many rows.
        assert_eq!([of("layer1"), of("layer4")], [vec![true; 2], vec![false; 2]], "{all:?}");
    }
}
