//! Our own figures: a list of marks, written as SVG and as PNG.

mod axes;
pub(crate) mod canvas;
pub(crate) mod charts;
pub(crate) mod color;
pub(crate) mod matrices;
pub(crate) mod raster;
pub(crate) mod svg;
