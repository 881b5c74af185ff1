//! The upper part of the report: the finding, its figures, the comparison by layer.

use std::fmt::Write;

use super::{escape, figure};
use crate::coefficients::COLLAPSED;
use crate::correlation::NEAR_ZERO;
use crate::error::AnalysisError;
use crate::figures::charts::{Series, bands_by_layer, by_layer as chart};
use crate::figures::matrices;
use crate::report::{ModelAnalysis, Report};

/// Per cent with one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

pub(super) fn overview(report: &Report, title: &str) -> Result<String, AnalysisError> {
    let mut out = format!("<h1>{}</h1>\n", escape(title));
    let images = report.models.iter().map(|m| m.images).max().unwrap_or(0);
    let _ = writeln!(out, "<p class=\"soft\">{images} images of {}</p>", escape(&report.data));
    let _ = writeln!(out, "<p class=\"finding\" id=\"finding\">{}</p>", escape(&report.finding()));
    for model in &report.models {
        out += &warning(model);
    }
    out += &totals(report);
    Ok(out)
}

/// The alarm for predictors that do nothing.
fn warning(model: &ModelAnalysis) -> String {
    let collapsed: Vec<String> = model
        .layers
        .iter()
        .filter_map(|l| {
            let how = l.coefficients.as_ref()?.collapsed?;
            Some(format!("<li>{}: {}</li>", escape(&l.name), how.describe()))
        })
        .collect();
    if collapsed.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"warn\" role=\"alert\"><b>{} of {} predictors of {} have collapsed</b>: their coefficients hardly \
         depend on the image, so that a static kernel would do the same.<ul>{}</ul></div>\n",
        collapsed.len(),
        model.totals().predictors,
        escape(&model.label),
        collapsed.concat()
    )
}

/// A row of figures for each model.
fn totals(report: &Report) -> String {
    let head = [
        "model",
        "net",
        "top-1 on these images",
        "parameters",
        "MAdds (10<sup>6</sup>)",
        "mean |r|",
        "strong pairs",
        "no correlation",
        "r in [-0.1, 0.2]",
        "effective rank",
        "kernels: mean |cos|",
        "dead channels",
        "collapsed predictors",
    ];
    let cells: Vec<String> = head.iter().map(|h| format!("<th>{h}</th>")).collect();
    let mut out = format!(
        "<div class=\"scroll\"><table id=\"totals\"><thead><tr>{}</tr></thead><tbody>\n",
        cells.concat()
    );
    for model in &report.models {
        let t = model.totals();
        let predictors = if t.predictors == 0 {
            "none".to_owned()
        } else {
            format!("{} of {}", t.collapsed, t.predictors)
        };
        let cells = [
            escape(&model.label),
            escape(&model.net),
            model.top1.map_or("-".into(), percent),
            model.params.to_string(),
            format!("{:.2}", model.madds as f64 / 1e6),
            format!("{:.3}", t.mean_abs),
            percent(t.strong),
            percent(t.none),
            percent(t.near_zero),
            percent(t.rank_share),
            format!("{:.3}", t.kernel_mean_abs),
            t.constant.to_string(),
            predictors,
        ];
        let cells: Vec<String> = cells.iter().map(|c| format!("<td>{c}</td>")).collect();
        let _ = writeln!(out, "<tr>{}</tr>", cells.concat());
    }
    out += "</tbody></table></div>\n<p class=\"soft\">Means over the convolutions, each counted once. Effective rank as a \
            share of the channels that vary.</p>\n";
    out
}

/// Charts and the table of all layers.
pub(super) fn by_layer(report: &Report) -> Result<String, AnalysisError> {
    let mut out = "<h2>By layer</h2>\n".to_owned();
    for (name, caption, canvas) in figures(report) {
        let _ = writeln!(out, "<div id=\"figure-{name}\">{}</div>", figure(&canvas, caption)?);
    }
    out += &table(report);
    Ok(out)
}

/// The figures of all layers, by their file names.
pub(crate) fn figures(report: &Report) -> Vec<(&'static str, &'static str, crate::figures::canvas::Canvas)> {
    let names: Vec<String> = report.layer_names().into_iter().map(str::to_owned).collect();
    type Value = fn(&crate::collect::LayerAnalysis) -> Option<f64>;
    let lines = |what: &str, unit: &str, value: Value| {
        let of = |m: &ModelAnalysis, name: &String| {
            m.layers.iter().find(|l| l.name == *name).and_then(value).unwrap_or(f64::NAN)
        };
        let values = |m| names.iter().map(|name| of(m, name)).collect();
        let series = report.models.iter().map(|m| Series { name: &m.label, values: values(m) });
        // A model of which nothing can be shown would only stand in the legend.
        let series: Vec<_> = series.filter(|s| s.values.iter().any(|v| v.is_finite())).collect();
        chart(what, unit, &names, &series)
    };
    let panels: Vec<(&str, Vec<[f64; 4]>)> = report
        .models
        .iter()
        .map(|m| (m.label.as_str(), m.layers.iter().map(|l| l.maps.stats.bands).collect()))
        .collect();
    let mut list = vec![
        (
            "mean-r",
            "Mean |r| between the feature maps of a layer, over images and positions. Lower is less redundant.",
            lines("mean |r| of feature maps", "", |l| {
                (l.maps.stats.pairs > 0).then_some(l.maps.stats.mean_abs)
            }),
        ),
        (
            "bands",
            "Pairs of feature maps by the strength of their correlation. The thresholds are ours.",
            bands_by_layer(&panels, &report.options.bands),
        ),
        (
            "effective-rank",
            "How many independent directions the channels of a layer span, as a share of their number.",
            lines("effective rank", "% of channels", |l| {
                (l.maps.stats.pairs > 0).then(|| 100.0 * l.maps.stats.rank_share())
            }),
        ),
    ];
    if report.models.iter().any(|m| m.dynamic) {
        list.push((
            "coefficient-variation",
            "How much the coefficients of a layer differ between images. Near zero, the predictor has collapsed.",
            lines("variation of coefficients", "% of mean", |l| {
                l.coefficients.as_ref().map(|c| 100.0 * c.variation)
            }),
        ));
    }
    list
}

fn table(report: &Report) -> String {
    let many = report.models.len() > 1;
    let head = [
        "layer",
        "kernel",
        "output",
        "mean |r|",
        "max |r|",
        "strong",
        "middle",
        "weak",
        "none",
        "r in [-0.1, 0.2]",
        "eff. rank",
        "dead",
        "kernels: mean |cos|",
        "experts: mean |cos|",
        "entropy",
        "variation",
    ];
    let mut cells: Vec<String> = head.iter().map(|h| format!("<th>{h}</th>")).collect();
    if many {
        cells.insert(1, "<th>model</th>".into());
    }
    let mut out = format!(
        "<div class=\"scroll\"><table id=\"by-layer\"><thead><tr>{}</tr></thead><tbody>\n",
        cells.concat()
    );
    for (number, name) in report.layer_names().into_iter().enumerate() {
        let mut first = true;
        for model in &report.models {
            let Some(l) = model.layers.iter().find(|l| l.name == name) else { continue };
            let s = &l.maps.stats;
            let or_dash = |v: Option<String>| v.unwrap_or_else(|| "-".into());
            let pairs = |v: String| if s.pairs > 0 { v } else { "-".into() };
            let name = if first {
                format!("<a href=\"#layer-{number}\">{}. {}</a>", number + 1, escape(name))
            } else {
                String::new()
            };
            let mut cells = vec![
                name,
                escape(&l.kernel),
                l.shape.to_string(),
                pairs(format!("{:.3}", s.mean_abs)),
                pairs(format!("{:.3}", s.max_abs)),
            ];
            cells.extend(s.bands.map(|b| pairs(percent(b))));
            cells.push(pairs(percent(s.near_zero)));
            cells.push(pairs(format!("{:.1} of {}", s.effective_rank, s.channels - s.constant)));
            cells.push(s.constant.to_string());
            cells.push(format!("{:.3}", l.kernels.stats.mean_abs));
            cells.push(or_dash(l.expert_cosine.as_ref().map(|e| format!("{:.3}", e.stats.mean_abs))));
            cells.push(or_dash(l.coefficients.as_ref().map(|c| format!("{:.2}", c.entropy))));
            cells.push(or_dash(l.coefficients.as_ref().map(|c| percent(c.variation))));
            let mut cells: Vec<String> = cells.iter().map(|c| format!("<td>{c}</td>")).collect();
            if many {
                cells.insert(1, format!("<td class=\"model\">{}</td>", escape(&model.label)));
            }
            let class = if first && many { " class=\"first\"" } else { "" };
            let _ = writeln!(out, "<tr{class}>{}</tr>", cells.concat());
            first = false;
        }
    }
    out + "</tbody></table></div>\n"
}

/// How alike the layers of two models represent the images.
pub(super) fn cka(report: &Report) -> Result<String, AnalysisError> {
    let mut out = String::new();
    for matrix in &report.cka {
        if matrix.values.iter().flatten().all(|v| !v.linear.is_finite()) {
            continue;
        }
        if out.is_empty() {
            out += "<h2>How alike the layers see the images (linear CKA)</h2>\n";
        }
        let _ = writeln!(out, "<div>{}</div>", figure(&cka_figure(report, matrix), CKA_CAPTION)?);
    }
    Ok(out)
}

const CKA_CAPTION: &str = "Linear CKA of feature maps averaged over their positions: 1, the same up to rotation and scale; \
    0, nothing in common. With few images it is too high for wide layers; the unbiased estimate is in cka.csv.";

/// The matrix of one pair of models.
pub(crate) fn cka_figure(
    report: &Report,
    matrix: &crate::report::CkaMatrix,
) -> crate::figures::canvas::Canvas {
    let [a, b] = matrix.models.map(|m| report.models[m].label.as_str());
    let sizes = [matrix.values.len(), matrix.values.first().map_or(0, Vec::len)];
    matrices::cka([a, b], sizes, |row, column| matrix.values[row][column].linear)
}

/// What the numbers are and where they lie.
pub(super) fn notes(report: &Report, files: &str) -> String {
    let o = &report.options;
    let bands = format!(
        "strong from {}, middle from {}, weak from {}, none below; the paper names these bands and prints no thresholds",
        o.bands.strong, o.bands.middle, o.bands.weak
    );
    let images =
        report.models.iter().map(|m| format!("<li>{}: {}</li>", escape(&m.label), escape(&m.origin)));
    format!(
        "<h2>How it was computed</h2>\n<ul>\n\
         <li>r: Pearson's product-moment coefficient between two channels of a layer, over all images and positions \
         (maps with more than {} positions are sampled, seed {}). Channels without variation are left out and counted as dead.</li>\n\
         <li>Bands of |r|, our thresholds: {bands}. The interval [{}, {}] is the one that the paper speaks of.</li>\n\
         <li>Effective rank: exp of the entropy of the eigenvalues of the matrix of r, shares of their sum.</li>\n\
         <li>Kernels: cosine between the kernels of two output channels; of a dynamic layer, of its experts fused with their \
         mean coefficients. Experts: cosine between two experts of one output channel.</li>\n\
         <li>Entropy of the shares of the K kernels, over ln K: 0, one kernel; 1, all alike. Variation: standard deviation of \
         a coefficient between images over its mean; below {} % a predictor counts as collapsed (our threshold).</li>\n\
         <li>Every number: report.json, layers.csv, histograms.csv, coefficients.csv, images.csv and cka.csv in <code>{}</code> \
         beside this page; the matrices of layers of at most {} channels as CSV and JSON in its folder <code>matrices</code>; every \
         figure as SVG and PNG in its folder <code>figures</code>.</li>\n</ul>\n<h3>Models</h3><ul>{}</ul>\n",
        o.positions,
        o.seed,
        NEAR_ZERO[0],
        NEAR_ZERO[1],
        100.0 * COLLAPSED,
        escape(files),
        o.matrix_channels,
        images.collect::<String>()
    )
}
