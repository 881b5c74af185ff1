//! Layers and nets held to what PyTorch computes; `tools/golden` holds the programs that asked it.
#![expect(clippy::unwrap_used, reason = "a test fails that way")]

mod layer;
mod logits;
mod near;
mod trace;
