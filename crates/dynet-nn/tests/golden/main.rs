//! Layers and nets held to what PyTorch computes; `tools/golden` holds the programs that asked it.

mod layer;
mod logits;
mod near;
mod trace;
