//! Every kernel of the table on every instruction set of this CPU against the naive version.

mod conv;
mod pixelwise;
mod properties;
mod random;

use dynet_kernels::winograd::Side;
use dynet_kernels::{Storage, kernels};

use crate::random::Random;

/// Cases of a kernel, of random sizes around the edges of tiles and panels.
const CASES: usize = 100;

#[test]
fn every_kernel_equals_its_naive_version() {
    for kernel in kernels() {
        // The same cases for every instruction set.
        let r = &mut Random(1);
        let what = kernel.to_string();
        for case in 0..CASES {
            // As this CPU and as others run it.
            let tunings: Vec<_> = kernel.isa.tunings().collect();
            let (isa, what) = (tunings[case % tunings.len()], format!("{what} case {case}"));
            match kernel.family {
                "f32_product" => conv::dense(isa, r, &what, None),
                "f32_fuse" => conv::dense(isa, r, &what, Some(Storage::F32)),
                "bf16_fuse" => conv::dense(isa, r, &what, Some(Storage::Bf16)),
                "int8_fuse" => conv::dense(isa, r, &what, Some(Storage::Int8)),
                "bf16_product" => conv::dense_bf16(isa, r, &what, false),
                "bf16_product_fused" => conv::dense_bf16(isa, r, &what, true),
                "matvec" => conv::matvec(isa, r, &what),
                "depthwise" => conv::depthwise(isa, r, &what),
                "narrow_groups" => conv::narrow(isa, r, &what),
                "winograd_2" => conv::winograd(isa, r, &what, Side::Two),
                "winograd_3" => conv::winograd(isa, r, &what, Side::Three),
                "winograd_4" => conv::winograd(isa, r, &what, Side::Four),
                "stem" => conv::stem(isa, r, &what),
                "pixelwise" => pixelwise::elementwise(isa, r, &what),
                "channel_sums" => pixelwise::sums(isa, r, &what),
                "max_pool" => pixelwise::max_pool(isa, r, &what),
                "softmax" => pixelwise::softmax(isa, r, &what),
                other => panic!("{other} has no test"),
            }
        }
    }
}

#[test]
fn names_of_kernels_are_unique() {
    let mut names: Vec<String> = kernels().map(|k| k.to_string()).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}
