//! Inference engine for networks with dynamic convolutions.
#![forbid(unsafe_code)]
