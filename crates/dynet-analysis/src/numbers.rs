//! The matrices of each layer as numbers: CSV and JSON beside the pictures.

use std::fmt::Write;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::cluster::cluster_order;
use crate::collect::LayerAnalysis;
use crate::correlation::Correlation;
use crate::error::AnalysisError;
use crate::files::{layer_stem, write_file};
use crate::report::{ModelAnalysis, Report};

/// Writes `LAYER-MODEL-{maps,kernels,experts}.csv` and `LAYER-MODEL.json` for every layer of at most
/// `Options::matrix_channels` channels: a layer of 1,280 would take 60 MB.
pub(crate) fn write_matrices(report: &Report, folder: &Path) -> Result<(), AnalysisError> {
    let names = report.layer_names();
    let write = |(number, name): (usize, &&str)| -> Result<(), AnalysisError> {
        for (m, model) in report.models.iter().enumerate() {
            let Some(l) = model.layers.iter().find(|l| l.name == **name) else { continue };
            if l.shape.c > report.options.matrix_channels {
                continue;
            }
            let stem = format!("{}-{}", layer_stem(number, name), m + 1);
            let experts = l.expert_cosine.as_ref().map(|e| ("experts", csv(&e.cosine, e.experts)));
            let square = |c: &Correlation| csv(&doubles(&c.r), c.stats.channels);
            let tables = [("maps", square(&l.maps)), ("kernels", square(&l.kernels))];
            for (what, text) in tables.into_iter().chain(experts) {
                write_file(&folder.join(format!("{stem}-{what}.csv")), text.as_bytes())?;
            }
            write_file(&folder.join(format!("{stem}.json")), format!("{}\n", layer(model, l)).as_bytes())?;
        }
        Ok(())
    };
    names.par_iter().enumerate().try_for_each(write)
}

fn layer(model: &ModelAnalysis, l: &LayerAnalysis) -> Value {
    json!({
        "model": model.label,
        "layer": l.name,
        "maps_r": rows(&doubles(&l.maps.r), l.maps.stats.channels),
        "maps_order": cluster_order(&l.maps.r, l.maps.stats.channels),
        "kernels_cosine": rows(&doubles(&l.kernels.r), l.kernels.stats.channels),
        "kernels_order": cluster_order(&l.kernels.r, l.kernels.stats.channels),
        "experts_cosine": l.expert_cosine.as_ref().map(|e| rows(&e.cosine, e.experts)),
    })
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Six decimals, which is what an entry is exact to; nothing for a channel that never varies.
fn rounded(value: f64) -> Option<f64> {
    value.is_finite().then(|| (value * 1e6).round() / 1e6)
}

/// A row of the matrix a line, channels in their own order, without a head.
fn csv(values: &[f64], n: usize) -> String {
    let mut out = String::with_capacity(values.len() * 10);
    for row in values.chunks_exact(n.max(1)) {
        for (column, value) in row.iter().enumerate() {
            out += if column > 0 { "," } else { "" };
            if let Some(value) = rounded(*value) {
                let _ = write!(out, "{value}");
            }
        }
        out.push('\n');
    }
    out
}

fn rows(values: &[f64], n: usize) -> Vec<Vec<Option<f64>>> {
    values.chunks_exact(n.max(1)).map(|row| row.iter().map(|v| rounded(*v)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_rows_of_six_decimals_and_missing_values_are_empty() {
        let r = [1.0, -0.123_456_78, f64::NAN, 0.000_000_4];
        assert_eq!(csv(&r, 2), "1,-0.123457\n,0\n");
        assert_eq!(rows(&r, 2), [[Some(1.0), Some(-0.123_457)], [None, Some(0.0)]]);
        assert_eq!((csv(&[], 0), rows(&[], 0).len()), (String::new(), 0));
    }
}
