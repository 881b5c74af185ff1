//! The analysis of one model or several side by side, and what it says in a sentence.

use dynet_net::{Model, cost};
use serde::Serialize;

use crate::cka::Cka;
use crate::collect::{LayerAnalysis, Options};
use crate::correlation::PairStats;

/// Everything about one model.
#[derive(Clone, Debug)]
pub struct ModelAnalysis {
    /// What it is called in the report.
    pub label: String,
    /// Where it comes from.
    pub origin: String,
    /// Name of the architecture.
    pub net: String,
    /// Whether it has dynamic convolutions.
    pub dynamic: bool,
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds of one image, kernels fused.
    pub madds: u64,
    /// Images that it was run on.
    pub images: usize,
    /// Share of them whose class it found; `None` where its classes are not the data's.
    pub top1: Option<f64>,
    /// Its convolutions, in the order in which they run.
    pub layers: Vec<LayerAnalysis>,
}

impl ModelAnalysis {
    /// Of a model and what was collected of it.
    pub fn new(
        label: &str,
        origin: &str,
        model: &Model,
        images: usize,
        top1: Option<f64>,
        layers: Vec<LayerAnalysis>,
    ) -> Self {
        let cost = cost(&model.net);
        Self {
            label: label.into(),
            origin: origin.into(),
            net: model.net.name().into(),
            dynamic: model.net.is_dynamic(),
            params: cost.params,
            madds: cost.madds.fused_total(),
            images,
            top1,
            layers,
        }
    }

    /// Means over the layers.
    pub fn totals(&self) -> Totals {
        let maps = || self.layers.iter().map(|l| &l.maps.stats).filter(|s| s.pairs > 0);
        let mean = |value: &dyn Fn(&PairStats) -> f64| {
            let n = maps().count().max(1) as f64;
            maps().map(value).sum::<f64>() / n
        };
        let kernels = || self.layers.iter().map(|l| &l.kernels.stats).filter(|s| s.pairs > 0);
        let predictors = || self.layers.iter().filter_map(|l| l.coefficients.as_ref());
        let n = kernels().count().max(1) as f64;
        Totals {
            mean_abs: mean(&|s| s.mean_abs),
            strong: mean(&|s| s.bands[0]),
            none: mean(&|s| s.bands[3]),
            near_zero: mean(&|s| s.near_zero),
            rank_share: mean(&PairStats::rank_share),
            constant: self.layers.iter().map(|l| l.maps.stats.constant).sum(),
            kernel_mean_abs: kernels().map(|s| s.mean_abs).sum::<f64>() / n,
            predictors: predictors().count(),
            collapsed: predictors().filter(|c| c.collapsed.is_some()).count(),
        }
    }
}

/// Means of a model over its layers, each layer counted once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Of the layers' mean |r| of feature maps.
    pub mean_abs: f64,
    /// Of the shares of strongly correlated pairs.
    pub strong: f64,
    /// Of the shares of pairs without correlation.
    pub none: f64,
    /// Of the shares of pairs with r in [-0.1, 0.2].
    pub near_zero: f64,
    /// Of the effective ranks, as shares of the channels.
    pub rank_share: f64,
    /// Channels without variation in all layers together.
    pub constant: usize,
    /// Of the layers' mean |cosine| of kernels.
    pub kernel_mean_abs: f64,
    /// Dynamic convolutions.
    pub predictors: usize,
    /// Those whose coefficients do not depend on the image.
    pub collapsed: usize,
}

/// CKA of every layer of one model with every layer of another.
#[derive(Clone, Debug)]
pub struct CkaMatrix {
    /// The two models, by their places in [`Report::models`].
    pub models: [usize; 2],
    /// `[layers of the first][layers of the second]`.
    pub values: Vec<Vec<Cka>>,
}

/// One model or several, analysed on the same images.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the images are called.
    pub data: String,
    /// Names of their classes.
    pub classes: Vec<String>,
    /// What was computed.
    pub options: Options,
    /// The models.
    pub models: Vec<ModelAnalysis>,
    /// CKA of the first model with each other one; of a single one with itself.
    pub cka: Vec<CkaMatrix>,
}

impl Report {
    /// Compares the layers of the models and drops what only that comparison needs.
    pub fn new(data: &str, classes: Vec<String>, options: Options, mut models: Vec<ModelAnalysis>) -> Self {
        let others = if models.len() > 1 { 1..models.len() } else { 0..models.len() };
        let cka = others.map(|other| {
            let row = |a: &LayerAnalysis| -> Vec<Cka> {
                let none = Cka { linear: f64::NAN, unbiased: None };
                let cell = |b: &LayerAnalysis| match (&a.features, &b.features) {
                    (Some(a), Some(b)) => a.cka(b),
                    _ => none,
                };
                models[other].layers.iter().map(cell).collect()
            };
            CkaMatrix { models: [0, other], values: models[0].layers.iter().map(row).collect() }
        });
        let cka = cka.collect();
        models.iter_mut().flat_map(|m| &mut m.layers).for_each(|l| l.features = None);
        Self { data: data.into(), classes, options, models, cka }
    }

    /// Names of all layers: the first model's in their order, then what only later models have.
    pub fn layer_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for layer in self.models.iter().flat_map(|m| &m.layers) {
            if !names.contains(&layer.name.as_str()) {
                names.push(&layer.name);
            }
        }
        names
    }

    /// The finding in a sentence or two.
    pub fn finding(&self) -> String {
        match &self.models[..] {
            [] => "Nothing was analysed.".into(),
            [only] => alone(only),
            [first, second, rest @ ..] => {
                // A dynamic net and its twin are the usual pair: the dynamic one is the subject.
                let (a, b) = if second.dynamic && !first.dynamic { (second, first) } else { (first, second) };
                let mut text = pair(a, b);
                for other in rest {
                    text += &format!(" {}: mean |r| {:.3}.", other.label, other.totals().mean_abs);
                }
                text
            }
        }
    }
}

fn alone(model: &ModelAnalysis) -> String {
    let totals = model.totals();
    let worst = model
        .layers
        .iter()
        .filter(|l| l.maps.stats.pairs > 0)
        .min_by(|a, b| a.maps.stats.rank_share().total_cmp(&b.maps.stats.rank_share()));
    let mut text = format!(
        "In {}, {:.1} % of the pairs of feature maps are strongly correlated and {:.1} % not at all (mean |r| {:.3}).",
        model.label,
        100.0 * totals.strong,
        100.0 * totals.none,
        totals.mean_abs
    );
    if let Some(l) = worst {
        let s = &l.maps.stats;
        text += &format!(
            " The most redundant layer is {}: its {} channels carry as much as {:.1} independent ones.",
            l.name, s.channels, s.effective_rank
        );
    }
    text
}

/// A difference of mean |r| below this is called none. Ours.
const ALIKE: f64 = 0.005;

fn pair(a: &ModelAnalysis, b: &ModelAnalysis) -> String {
    let both: Vec<(f64, f64)> = a
        .layers
        .iter()
        .filter_map(|l| {
            let other = b.layers.iter().find(|o| o.name == l.name)?;
            let (s, o) = (&l.maps.stats, &other.maps.stats);
            (s.pairs > 0 && o.pairs > 0).then_some((s.mean_abs, o.mean_abs))
        })
        .collect();
    let (mean_a, mean_b) = match both.len() {
        0 => (a.totals().mean_abs, b.totals().mean_abs),
        n => {
            let mean = |pick: fn(&(f64, f64)) -> f64| both.iter().map(pick).sum::<f64>() / n as f64;
            (mean(|p| p.0), mean(|p| p.1))
        }
    };
    let lower = both.iter().filter(|p| p.0 < p.1).count();
    let higher = both.iter().filter(|p| p.0 > p.1).count();
    // A few layers may carry the mean: most of them must agree with it.
    let verb = match mean_a - mean_b {
        d if d < -ALIKE && lower >= higher => "less correlated than",
        d if d > ALIKE && higher >= lower => "more correlated than",
        _ => "about as correlated as",
    };
    let mut text = format!(
        "Feature maps of {} are {verb} those of {}: mean |r| {mean_a:.3} against {mean_b:.3}",
        a.label, b.label
    );
    if !both.is_empty() {
        text += &format!(", lower in {lower} of the {} layers that both have", both.len());
    }
    text + "."
}
