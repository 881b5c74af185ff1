//! The report on disk: the page, and beside it every number as CSV and JSON and every figure as SVG and PNG.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use dynet_net::model::write_atomic;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::collect::LayerAnalysis;
use crate::correlation::{BINS, Bands, PairStats};
use crate::error::AnalysisError;
use crate::figures::canvas::Canvas;
use crate::figures::raster::png;
use crate::figures::svg::{Target, svg};
use crate::numbers::write_matrices;
use crate::page::{self, layer, overview};
use crate::report::{ModelAnalysis, Report};

/// Where a report went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The folder beside it.
    pub files: PathBuf,
    /// Figures written, each as SVG and PNG.
    pub figures: usize,
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), AnalysisError> {
    write_atomic(path, bytes).map_err(|source| AnalysisError::Io { path: path.into(), source })
}

pub(crate) fn make_folder(path: &Path) -> Result<(), AnalysisError> {
    fs::create_dir_all(path).map_err(|source| AnalysisError::Io { path: path.into(), source })
}

/// The folder beside a page: `report.html` and `report_files`.
pub(crate) fn folder_beside(page: &Path) -> PathBuf {
    let stem = page.file_stem().map_or("report".into(), |s| s.to_string_lossy().into_owned());
    page.with_file_name(format!("{stem}_files"))
}

impl Report {
    /// Writes the page and the folder beside it.
    ///
    /// # Errors
    /// What the system refused, or a figure that cannot be encoded.
    pub fn write(&self, page: &Path) -> Result<Written, AnalysisError> {
        let files = folder_beside(page);
        let figures = files.join("figures");
        make_folder(&figures)?;
        let all = self.figures();
        all.par_iter().try_for_each(|(name, canvas)| write_figure(&figures, name, canvas))?;
        let tables = [
            ("layers.csv", layers_csv(self)),
            ("histograms.csv", histograms_csv(self)),
            ("coefficients.csv", coefficients_csv(self)),
            ("images.csv", images_csv(self)),
            ("cka.csv", cka_csv(self)),
            ("report.json", format!("{:#}\n", self.json())),
        ];
        for (name, text) in tables {
            write_file(&files.join(name), text.as_bytes())?;
        }
        let matrices = files.join("matrices");
        make_folder(&matrices)?;
        write_matrices(self, &matrices)?;
        let name = files.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        write_file(page, page::html(self, &name)?.as_bytes())?;
        Ok(Written { page: page.into(), files, figures: all.len() })
    }

    /// All figures with their file names.
    fn figures(&self) -> Vec<(String, Canvas)> {
        let mut list: Vec<(String, Canvas)> =
            overview::figures(self).into_iter().map(|(name, _, canvas)| (name.to_owned(), canvas)).collect();
        for matrix in &self.cka {
            let [a, b] = matrix.models.map(|m| m + 1);
            list.push((format!("cka-{a}-{b}"), overview::cka_figure(self, matrix)));
        }
        let names = self.layer_names();
        let of_layer = |(number, name): (usize, &&str)| -> Vec<(String, Canvas)> {
            let stem = layer_stem(number, name);
            let histograms = layer::histograms(self, name).into_iter();
            let mut list: Vec<_> = histograms.map(|(what, c)| (format!("{stem}-{what}"), c)).collect();
            for (m, model) in self.models.iter().enumerate() {
                let Some(l) = model.layers.iter().find(|l| l.name == **name) else { continue };
                let figures = layer::figures(model, l, &self.classes, layer::FILE_PIXELS);
                list.extend(figures.into_iter().map(|(what, c)| (format!("{stem}-{}-{what}", m + 1), c)));
            }
            list
        };
        let layers: Vec<Vec<(String, Canvas)>> = names.par_iter().enumerate().map(of_layer).collect();
        list.extend(layers.into_iter().flatten());
        list
    }

    /// Everything but the matrices of the layers, which are files of their own.
    fn json(&self) -> Value {
        let cka = self.cka.iter().map(|m| {
            json!({
                "models": m.models.map(|i| &self.models[i].label),
                "linear": m.values.iter().map(|r| r.iter().map(|v| v.linear).collect()).collect::<Vec<Vec<f64>>>(),
                "unbiased": m.values.iter().map(|r| r.iter().map(|v| v.unbiased).collect()).collect::<Vec<Vec<_>>>(),
            })
        });
        json!({
            "finding": self.finding(),
            "data": self.data,
            "classes": self.classes,
            "options": {
                "maps": self.options.maps,
                "bands": self.options.bands,
                "bands_source": "ours; the paper prints no thresholds",
                "positions": self.options.positions,
                "seed": self.options.seed,
                "coefficient_images": self.options.coefficient_images,
                "cka_images": self.options.cka_images,
                "matrix_channels": self.options.matrix_channels,
            },
            "models": self.models.iter().map(model_json).collect::<Vec<_>>(),
            "cka": cka.collect::<Vec<_>>(),
        })
    }
}

fn model_json(m: &ModelAnalysis) -> Value {
    json!({
        "label": m.label,
        "origin": m.origin,
        "net": m.net,
        "dynamic": m.dynamic,
        "params": m.params,
        "madds": m.madds,
        "images": m.images,
        "top1": m.top1,
        "totals": m.totals(),
        "layers": m.layers.iter().map(layer_json).collect::<Vec<_>>(),
    })
}

fn layer_json(l: &LayerAnalysis) -> Value {
    let alike = l.alike.iter().map(|p| json!({ "channels": p.channels, "r": p.r }));
    json!({
        "name": l.name,
        "kernel": l.kernel,
        "shape": l.shape,
        "experts": l.experts,
        "pixels": l.pixels,
        "maps": l.maps.stats,
        "kernels": l.kernels.stats,
        "expert_cosine": l.expert_cosine,
        "coefficients": l.coefficients,
        "most_alike": alike.collect::<Vec<_>>(),
    })
}

/// A figure as SVG and PNG.
pub(crate) fn write_figure(folder: &Path, name: &str, canvas: &Canvas) -> Result<(), AnalysisError> {
    write_file(&folder.join(format!("{name}.svg")), svg(canvas, Target::File)?.as_bytes())?;
    write_file(&folder.join(format!("{name}.png")), &png(canvas)?)
}

/// What the files of a layer begin with.
pub(crate) fn layer_stem(number: usize, name: &str) -> String {
    format!("{:03}-{}", number + 1, file_name(name))
}

/// A layer's name as part of a file's.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

/// A CSV field, quoted where it must be (RFC 4180).
pub(crate) fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

/// Every layer of every model.
fn each(report: &Report) -> impl Iterator<Item = (&ModelAnalysis, &LayerAnalysis)> {
    report.models.iter().flat_map(|m| m.layers.iter().map(move |l| (m, l)))
}

fn key(m: &ModelAnalysis, l: &LayerAnalysis) -> String {
    format!("{},{}", field(&m.label), field(&l.name))
}

fn or_empty(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}

fn layers_csv(report: &Report) -> String {
    let stats = |prefix: &str| -> String {
        let names =
            ["channels", "constant", "pairs", "mean_abs", "max_abs", "max_value", "max_pair_a", "max_pair_b"];
        let names = names.into_iter().map(str::to_owned).chain(Bands::NAMES.map(|b| format!("share_{b}")));
        let names = names.chain(["near_zero".to_owned(), "effective_rank".to_owned()]);
        names.map(|n| format!(",{prefix}_{n}")).collect()
    };
    let values = |s: &PairStats| {
        let [a, b] = s.max_pair;
        let mut text = format!(
            ",{},{},{},{},{},{},{a},{b}",
            s.channels, s.constant, s.pairs, s.mean_abs, s.max_abs, s.max_value
        );
        s.bands.iter().for_each(|b| text += &format!(",{b}"));
        text + &format!(",{},{}", s.near_zero, s.effective_rank)
    };
    let heads: String = ["maps", "kernels", "experts"].map(stats).concat();
    let mut out = format!("model,layer,kernel,c,h,w,experts,pixels{heads}\n");
    let none = ",".repeat(stats("experts").matches(',').count());
    for (m, l) in each(report) {
        let s = l.shape;
        let experts = l.expert_cosine.as_ref().map_or(none.clone(), |e| values(&e.stats));
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{}{}{}{experts}",
            key(m, l),
            field(&l.kernel),
            s.c,
            s.h,
            s.w,
            l.experts,
            l.pixels,
            values(&l.maps.stats),
            values(&l.kernels.stats)
        );
    }
    out
}

fn histograms_csv(report: &Report) -> String {
    let mut out = "model,layer,of,from,to,count\n".to_owned();
    for (m, l) in each(report) {
        let mut rows = |of: &str, [low, high]: [f64; 2], counts: &[u64]| {
            let step = (high - low) / counts.len() as f64;
            for (bin, count) in counts.iter().enumerate() {
                let (from, to) = (low + bin as f64 * step, low + (bin + 1) as f64 * step);
                let _ = writeln!(out, "{},{of},{from:.4},{to:.4},{count}", key(m, l));
            }
        };
        debug_assert_eq!(l.maps.stats.histogram.len(), BINS, "bins of r");
        rows("maps_r", [-1.0, 1.0], &l.maps.stats.histogram);
        rows("kernels_cosine", [-1.0, 1.0], &l.kernels.stats.histogram);
        if let Some(e) = &l.expert_cosine {
            rows("experts_cosine", [-1.0, 1.0], &e.stats.histogram);
        }
        if let Some(c) = &l.coefficients {
            rows("coefficient", [0.0, 1.0], &c.histogram);
            rows("entropy", [0.0, 1.0], &c.entropy_histogram);
        }
    }
    out
}

fn coefficients_csv(report: &Report) -> String {
    let mut out =
        "model,layer,experts,channels,images,entropy,sd_images,variation,between_classes,between_by_chance,\
                   collapsed,explained_1,explained_2,mean_of_each_expert\n"
            .to_owned();
    for (m, l) in each(report) {
        let Some(c) = &l.coefficients else { continue };
        let means: Vec<String> = c.mean.iter().map(|v| format!("{v:.6}")).collect();
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{},{}",
            key(m, l),
            c.experts,
            c.channels,
            c.images,
            c.entropy,
            c.sd_images,
            c.variation,
            or_empty(c.between_classes),
            or_empty(c.between_by_chance),
            c.collapsed.map_or(String::new(), |how| field(how.describe())),
            c.explained[0],
            c.explained[1],
            means.join(" ")
        );
    }
    out
}

fn images_csv(report: &Report) -> String {
    let mut out = "model,layer,image,class,component_1,component_2\n".to_owned();
    for (m, l) in each(report) {
        for (image, p) in l.coefficients.iter().flat_map(|c| c.map.iter().enumerate()) {
            let _ = writeln!(out, "{},{image},{},{},{}", key(m, l), p.class, p.x, p.y);
        }
    }
    out
}

fn cka_csv(report: &Report) -> String {
    let mut out = "model_a,layer_a,model_b,layer_b,linear,unbiased\n".to_owned();
    for matrix in &report.cka {
        let [a, b] = matrix.models.map(|m| &report.models[m]);
        for (la, row) in a.layers.iter().zip(&matrix.values) {
            for (lb, v) in b.layers.iter().zip(row) {
                let _ = writeln!(out, "{},{},{},{}", key(a, la), key(b, lb), v.linear, or_empty(v.unbiased));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!((field("a b"), field("a,\"b\"")), ("a b".into(), "\"a,\"\"b\"\"\"".into()));
        assert_eq!(file_name("a/../b c"), "a_.._b_c");
        assert_eq!(folder_beside(Path::new("x/r.html")), Path::new("x/r_files"));
    }
}
