//! One layer of the report, shown on demand.

use std::fmt::Write;

use super::overview::percent;
use super::{escape, figure};
use crate::cluster::cluster_order;
use crate::collect::LayerAnalysis;
use crate::correlation::{Correlation, PairStats};
use crate::error::AnalysisError;
use crate::figures::canvas::Canvas;
use crate::figures::{charts, matrices};
use crate::report::{ModelAnalysis, Report};

/// Pixels of a matrix's side within the page, where they weigh.
const PAGE_PIXELS: usize = 160;
/// Pixels of a matrix's side in a file of its own.
pub(crate) const FILE_PIXELS: usize = 512;

fn matrix(title: &str, symbol: &str, c: &Correlation, most: usize) -> Canvas {
    matrices::correlation(title, symbol, &c.r, &cluster_order(&c.r, c.stats.channels), most)
}

/// The figures of one layer of one model, by their file names.
pub(crate) fn figures(
    model: &ModelAnalysis,
    l: &LayerAnalysis,
    classes: &[String],
    most: usize,
) -> Vec<(&'static str, Canvas)> {
    let title = |what: &str| format!("{what}, {}", model.label);
    let mut list = vec![("maps", matrix(&title("feature maps"), "r", &l.maps, most))];
    list.push(("kernels", matrix(&title("kernels"), "cosine", &l.kernels, most)));
    if let Some(e) = &l.expert_cosine {
        list.push(("experts", matrices::experts(&e.cosine, e.experts)));
    }
    if let Some(c) = &l.coefficients {
        let one = |what: &str, unit: &str, counts: &[u64]| {
            charts::histogram(what, unit, [0.0, 1.0], &[("", counts)])
        };
        list.push(("coefficients", one("coefficient", "coefficients (%)", &c.histogram)));
        list.push(("entropy", one("entropy / ln K", "channels x images (%)", &c.entropy_histogram)));
        list.push(("images", charts::image_map(&c.map, c.explained, classes)));
    }
    if !l.alike.is_empty() {
        list.push(("alike", matrices::alike(&l.alike, [l.shape.h, l.shape.w])));
    }
    list
}

/// Signed values of all models that have the layer, by their file names: feature maps, kernels, experts.
pub(crate) fn histograms(report: &Report, name: &str) -> Vec<(&'static str, Canvas)> {
    type Counts = fn(&LayerAnalysis) -> Option<&PairStats>;
    let kinds: [(&str, &str, Counts); 3] = [
        ("histogram", "correlation r of feature maps", |l| Some(&l.maps.stats)),
        ("kernels-histogram", "cosine of kernels", |l| Some(&l.kernels.stats)),
        ("experts-histogram", "cosine of experts", |l| l.expert_cosine.as_ref().map(|e| &e.stats)),
    ];
    let figure = |(file, what, counts): (&'static str, &str, Counts)| {
        let own = report.models.iter().filter_map(|m| {
            let l = m.layers.iter().find(|l| l.name == name)?;
            Some((m.label.as_str(), &counts(l).filter(|s| s.pairs > 0)?.histogram[..]))
        });
        let series: Vec<(&str, &[u64])> = own.collect();
        (!series.is_empty()).then(|| (file, charts::histogram(what, "pairs (%)", [-1.0, 1.0], &series)))
    };
    kinds.into_iter().filter_map(figure).collect()
}

/// The layer's part of the page.
pub(super) fn details(report: &Report, number: usize, name: &str) -> Result<String, AnalysisError> {
    let own: Vec<(&ModelAnalysis, &LayerAnalysis)> =
        report.models.iter().filter_map(|m| Some((m, m.layers.iter().find(|l| l.name == name)?))).collect();
    let Some((_, first)) = own.first() else { return Ok(String::new()) };
    let collapsed = own.iter().any(|(_, l)| l.coefficients.as_ref().is_some_and(|c| c.collapsed.is_some()));
    let flag = if collapsed { "<b class=\"flag\">collapsed predictor</b>" } else { "" };
    let means: Vec<String> = own
        .iter()
        .filter(|(_, l)| l.maps.stats.pairs > 0)
        .map(|(_, l)| format!("{:.3}", l.maps.stats.mean_abs))
        .collect();
    let mut out = format!(
        "<details id=\"layer-{number}\"><summary><b>{}. {}</b><span class=\"soft\">{} &rarr; {}; mean |r| {}</span>{flag}</summary>\n<div>\n",
        number + 1,
        escape(name),
        escape(&first.kernel),
        first.shape,
        means.join(" / ")
    );
    out += "<div class=\"row\">";
    for (_, canvas) in histograms(report, name) {
        out += &figure(&canvas, "")?;
    }
    out += "</div>\n";
    for (model, l) in own {
        let _ = write!(out, "<h3>{}</h3>\n{}<div class=\"row\">", escape(&model.label), sentence(l));
        for (_, canvas) in figures(model, l, &report.classes, PAGE_PIXELS) {
            out += &figure(&canvas, "")?;
        }
        out += "</div>\n";
    }
    Ok(out + "</div></details>\n")
}

/// What the figures come to, in words.
fn sentence(l: &LayerAnalysis) -> String {
    let s = &l.maps.stats;
    let mut text = "<p>".to_owned();
    if s.pairs > 0 {
        let _ = write!(
            text,
            "Of {} pairs of feature maps {} are strongly correlated, {} middling, {} weakly, {} not; the largest is \
             r = {:+.3}, channels {} and {}. {} of the values lie in [-0.1, 0.2]. {} channels{} carry as much as {:.1} \
             independent ones.",
            s.pairs,
            percent(s.bands[0]),
            percent(s.bands[1]),
            percent(s.bands[2]),
            percent(s.bands[3]),
            s.max_value,
            s.max_pair[0] + 1,
            s.max_pair[1] + 1,
            percent(s.near_zero),
            s.channels - s.constant,
            if s.constant > 0 { format!(" ({} more never vary)", s.constant) } else { String::new() },
            s.effective_rank
        );
    } else {
        let _ = write!(text, "Fewer than two of its {} channels vary.", s.channels);
    }
    let experts = l.expert_cosine.as_ref().map(|e| ("experts of one channel", &e.stats));
    for (what, s) in
        [Some(("kernels", &l.kernels.stats)), experts].into_iter().flatten().filter(|s| s.1.pairs > 0)
    {
        let [strong, middle, weak, none] = s.bands.map(percent);
        let _ = write!(
            text,
            " Pairs of {what}, by cosine: {strong} strong, {middle} middling, {weak} weak, {none} none; mean |cos| {:.3}, \
             largest {:+.3}, {} in [-0.1, 0.2], effective rank {:.1} of {}.",
            s.mean_abs,
            s.max_value,
            percent(s.near_zero),
            s.effective_rank,
            s.channels
        );
    }
    if let Some(c) = &l.coefficients {
        let _ = write!(
            text,
            " Coefficients: entropy {:.2} of 1, variation between images {} of the mean",
            c.entropy,
            percent(c.variation)
        );
        if let (Some(between), Some(chance)) = (c.between_classes, c.between_by_chance) {
            let _ = write!(
                text,
                ", {} of the variance between classes (by chance {})",
                percent(between),
                percent(chance)
            );
        }
        text.push('.');
        if let Some(how) = c.collapsed {
            let _ =
                write!(text, "</p><p class=\"warn\"><b>The predictor has collapsed</b>: {}.", how.describe());
        }
    }
    text + "</p>\n"
}
