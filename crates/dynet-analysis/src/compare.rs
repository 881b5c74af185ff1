//! Several runs side by side: accuracy, cost, milliseconds, correlation.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::AnalysisError;
use crate::figures::canvas::Canvas;
use crate::figures::charts::scatter;
use crate::files::{Written, field, folder_beside, make_folder, write_figure, write_file};
use crate::page::{document, escape, figure};

/// One run of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedRun {
    /// What it is called.
    pub name: String,
    /// Its folder or file.
    pub origin: String,
    /// Name of the architecture.
    pub net: String,
    /// Whether it has dynamic convolutions.
    pub dynamic: bool,
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds of one image, kernels fused.
    pub madds: u64,
    /// Share of right answers on the test images, where the run measured it.
    pub test_top1: Option<f64>,
    /// Share of right answers on the validation images, where the run measured it.
    pub val_top1: Option<f64>,
    /// Median milliseconds of one image, a batch of its own.
    pub time_ms: f64,
    /// Mean over the layers of mean |r| of feature maps.
    pub mean_abs: f64,
    /// Mean over the layers of the shares of strongly correlated pairs.
    pub strong: f64,
    /// Mean over the layers of the shares of pairs with r in [-0.1, 0.2].
    pub near_zero: f64,
    /// Mean over the layers of the effective ranks, as shares of the channels.
    pub rank_share: f64,
}

impl ComparedRun {
    /// The accuracy that is shown: on the test images, else on the validation images.
    pub fn top1(&self) -> Option<f64> {
        self.test_top1.or(self.val_top1)
    }
}

/// Runs side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The runs, in the order in which they were named.
    pub runs: Vec<ComparedRun>,
    /// What the correlation was computed on.
    pub data: String,
    /// How the milliseconds were measured: threads, processor.
    pub timing: String,
}

const HEAD: &str = "name,origin,net,dynamic,params,madds,test_top1,val_top1,time_ms,mean_abs_r,strong_pairs,\
                    r_near_zero,effective_rank_share\n";

impl Comparison {
    /// One line a run, shares from 0 to 1.
    pub fn csv(&self) -> String {
        let mut out = HEAD.to_owned();
        let or_empty = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        for r in &self.runs {
            let texts = [&r.name, &r.origin, &r.net].map(|t| field(t)).join(",");
            let _ = writeln!(
                out,
                "{texts},{},{},{},{},{},{},{},{},{},{}",
                u8::from(r.dynamic),
                r.params,
                r.madds,
                or_empty(r.test_top1),
                or_empty(r.val_top1),
                r.time_ms,
                r.mean_abs,
                r.strong,
                r.near_zero,
                r.rank_share
            );
        }
        out
    }

    /// What the accuracies are those of.
    fn measured_on(&self) -> &'static str {
        let all = |has: fn(&ComparedRun) -> bool| self.runs.iter().all(has);
        if all(|r| r.test_top1.is_some()) {
            "test"
        } else if all(|r| r.test_top1.is_none()) {
            "validation"
        } else {
            "test, else validation"
        }
    }

    fn plots(&self) -> Vec<(&'static str, Canvas)> {
        let accuracy = format!("top-1 (%), {} images", self.measured_on());
        let points = |x: fn(&ComparedRun) -> f64| -> Vec<(String, f64, f64)> {
            let known = self.runs.iter().filter_map(|r| Some((r.name.clone(), x(r), 100.0 * r.top1()?)));
            known.collect()
        };
        let mut list = vec![
            (
                "accuracy-latency",
                scatter("milliseconds an image (median, batch 1)", &accuracy, &points(|r| r.time_ms)),
            ),
            (
                "accuracy-madds",
                scatter("MAdds an image (10^6)", &accuracy, &points(|r| r.madds as f64 / 1e6)),
            ),
            ("accuracy-correlation", scatter("mean |r| of feature maps", &accuracy, &points(|r| r.mean_abs))),
        ];
        if points(|r| r.time_ms).is_empty() {
            list.clear();
        }
        list
    }

    /// The table as text, for a terminal or a page: head and rows.
    pub fn table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let percent = |v: f64| format!("{:.2} %", 100.0 * v);
        let head = vec![
            "run",
            "net",
            "test top-1",
            "val top-1",
            "parameters",
            "MAdds (10^6)",
            "ms an image",
            "mean |r|",
            "strong pairs",
            "r in [-0.1, 0.2]",
            "effective rank",
        ];
        let row = |r: &ComparedRun| {
            vec![
                r.name.clone(),
                r.net.clone() + if r.dynamic { ", dynamic" } else { "" },
                r.test_top1.map_or("-".into(), percent),
                r.val_top1.map_or("-".into(), percent),
                r.params.to_string(),
                format!("{:.2}", r.madds as f64 / 1e6),
                format!("{:.3}", r.time_ms),
                format!("{:.3}", r.mean_abs),
                percent(r.strong),
                percent(r.near_zero),
                percent(r.rank_share),
            ]
        };
        (head, self.runs.iter().map(row).collect())
    }

    fn html(&self, files: &str) -> Result<String, AnalysisError> {
        let mut body = "<h1>Runs compared</h1>\n".to_owned();
        let _ = writeln!(body, "<p class=\"finding\" id=\"finding\">{}</p>", escape(&self.finding()));
        for (name, canvas) in self.plots().iter().take(1) {
            let _ = writeln!(
                body,
                "<div id=\"figure-{name}\">{}</div>",
                figure(canvas, "Up and to the left is better.")?
            );
        }
        let (head, rows) = self.table();
        let cells = |tag: &str, row: &[String]| -> String {
            row.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect()
        };
        let head: Vec<String> = head.into_iter().map(str::to_owned).collect();
        let _ = writeln!(
            body,
            "<div class=\"scroll\"><table id=\"runs\"><thead><tr>{}</tr></thead><tbody>",
            cells("th", &head)
        );
        rows.iter().for_each(|row| body += &format!("<tr>{}</tr>\n", cells("td", row)));
        body += "</tbody></table></div>\n";
        for (name, canvas) in self.plots().iter().skip(1) {
            let _ = writeln!(body, "<div id=\"figure-{name}\">{}</div>", figure(canvas, "")?);
        }
        let _ = writeln!(
            body,
            "<h2>How it was measured</h2><ul><li>Milliseconds: {}.</li><li>Correlation: means over the convolutions, on {}; \
             <code>dynet analyze</code> shows it layer by layer.</li><li>Accuracy: from the runs' own summaries.</li>\
             <li>The numbers as compare.csv and compare.json, the figures as SVG and PNG: <code>{}</code>.</li></ul>",
            escape(&self.timing),
            escape(&self.data),
            escape(files)
        );
        Ok(document("Runs compared", &body))
    }

    /// The best run and what it costs, in a sentence.
    pub fn finding(&self) -> String {
        let known = self.runs.iter().filter_map(|r| Some((r, r.top1()?)));
        let Some((best, top1)) = known.max_by(|a, b| a.1.total_cmp(&b.1)) else {
            return "No run says how accurate it is.".into();
        };
        let mut text = format!(
            "{} is the most accurate: top-1 {:.2} % ({} images) in {:.3} ms an image.",
            best.name,
            100.0 * top1,
            if best.test_top1.is_some() { "test" } else { "validation" },
            best.time_ms
        );
        let fastest = self.runs.iter().min_by(|a, b| a.time_ms.total_cmp(&b.time_ms));
        if let Some(fast) = fastest.filter(|f| f.name != best.name) {
            let accuracy = fast.top1().map_or(String::new(), |t| format!(" and has {:.2} %", 100.0 * t));
            text += &format!(" {} is the fastest: it takes {:.3} ms{accuracy}.", fast.name, fast.time_ms);
        }
        text
    }

    /// Writes the page and the folder beside it.
    ///
    /// # Errors
    /// What the system refused, or a figure that cannot be encoded.
    pub fn write(&self, page: &Path) -> Result<Written, AnalysisError> {
        let files = folder_beside(page);
        let figures = files.join("figures");
        make_folder(&figures)?;
        let plots = self.plots();
        plots.iter().try_for_each(|(name, canvas)| write_figure(&figures, name, canvas))?;
        write_file(&files.join("compare.csv"), self.csv().as_bytes())?;
        let json = serde_json::to_value(self)
            .map_err(|e| AnalysisError::Figure { name: "compare.json".into(), problem: e.to_string() })?;
        write_file(&files.join("compare.json"), format!("{json:#}\n").as_bytes())?;
        let name = files.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        write_file(page, self.html(&name)?.as_bytes())?;
        Ok(Written { page: page.into(), files, figures: plots.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, test_top1: Option<f64>, time_ms: f64) -> ComparedRun {
        ComparedRun {
            name: name.into(),
            origin: format!("runs/{name}"),
            net: "resnet18".into(),
            dynamic: name == "a",
            params: 1000,
            madds: 2_000_000,
            test_top1,
            val_top1: Some(0.8),
            time_ms,
            mean_abs: 0.1,
            strong: 0.02,
            near_zero: 0.5,
            rank_share: 0.6,
        }
    }

    #[test]
    fn the_finding_names_the_best_and_the_fastest() {
        let (data, timing) = ("12 images".to_owned(), "1 thread".to_owned());
        let runs = vec![run("a", Some(0.91), 2.0), run("b,c", Some(0.9), 1.0)];
        let comparison = Comparison { runs, data, timing };
        assert_eq!(
            comparison.finding(),
            "a is the most accurate: top-1 91.00 % (test images) in 2.000 ms an image. b,c is the fastest: it takes \
             1.000 ms and has 90.00 %."
        );
        let csv = comparison.csv();
        assert_eq!(
            csv.lines().nth(2),
            Some("\"b,c\",\"runs/b,c\",resnet18,0,1000,2000000,0.9,0.8,1,0.1,0.02,0.5,0.6")
        );
        let folder = tempfile::tempdir().unwrap();
        let written = comparison.write(&folder.path().join("compare.html")).unwrap();
        assert!(written.files.join("figures/accuracy-latency.png").is_file());
        let page = std::fs::read_to_string(written.page).unwrap();
        assert!(page.contains("figure-accuracy-latency") && page.contains("milliseconds an image"));
    }

    #[test]
    fn runs_without_accuracy_are_compared_too() {
        let bare = ComparedRun { val_top1: None, ..run("x", None, 1.0) };
        let comparison = Comparison { runs: vec![bare], data: String::new(), timing: String::new() };
        assert!(comparison.finding().starts_with("No run says"));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(comparison.write(&folder.path().join("c.html")).unwrap().figures, 0);
    }
}
