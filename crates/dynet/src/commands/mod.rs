//! One file a command: its arguments and what it prints.

pub(crate) mod analyze;
pub(crate) mod bench;
pub(crate) mod bench_train;
pub(crate) mod compare;
pub(crate) mod eval;
pub(crate) mod infer;
pub(crate) mod kernels;
pub(crate) mod models;
pub(crate) mod predict;
pub(crate) mod summary;
pub(crate) mod train;
