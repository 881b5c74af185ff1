//! Analysis of the redundancy of trained networks.
#![forbid(unsafe_code)]
