//! CPU kernels that fuse and convolve.
