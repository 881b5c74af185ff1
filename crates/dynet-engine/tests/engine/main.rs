//! The engine against a naive interpreter of nets in f64, and what it promises beside.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

mod common;
mod convolutions;
mod expand;
mod golden;
mod invariants;
mod plans;
mod pooled;
mod taps;
mod zoo;
