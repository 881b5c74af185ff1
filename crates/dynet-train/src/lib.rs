//! Training recipes, loop, metrics and run folders.
