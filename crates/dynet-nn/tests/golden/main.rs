//! Layers and nets held to what PyTorch computes; `tools/golden` holds the programs that asked it.
#![expect(clippy::unwrap_used, reason = "a test fails that way")]

mod gradients;
mod layer;
mod logits;
mod near;
#[path = "../common/pass.rs"]
mod pass;
#[path = "../common/small_net.rs"]
mod small_net;
mod trace;
