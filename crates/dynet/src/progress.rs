//! A run as its watcher sees it: a bar and lines, plain lines, lines of JSON, or nothing.

use std::io::IsTerminal;
use std::time::Duration;

use dynet_train::{EpochReport, EpochSeconds, Observer, RunInfo, StepReport};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::fault::{Fault, print};
use crate::table::grouped;

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Lines, and a bar where there is a terminal.
    Lines,
    /// Lines of JSON.
    Json,
    /// Nothing before the end.
    Quiet,
}

/// Tells of one run.
pub(crate) struct Progress {
    telling: Telling,
    bar: ProgressBar,
    epochs: usize,
    steps_per_epoch: usize,
    /// The first line that could not be printed.
    fault: Option<Fault>,
}

impl Progress {
    pub(crate) fn new(telling: Telling) -> Self {
        Self { telling, bar: ProgressBar::hidden(), epochs: 0, steps_per_epoch: 0, fault: None }
    }

    /// Takes the bar away.
    ///
    /// # Errors
    /// The first line that could not be printed.
    pub(crate) fn end(self) -> Result<(), Fault> {
        self.bar.finish_and_clear();
        self.fault.map_or(Ok(()), Err)
    }

    fn line(&mut self, text: &str) {
        if self.telling == Telling::Lines {
            self.put(text);
        }
    }

    fn json(&mut self, value: &serde_json::Value) {
        if self.telling == Telling::Json {
            self.put(&value.to_string());
        }
    }

    /// Prints above the bar.
    fn put(&mut self, text: &str) {
        let result = self.bar.suspend(|| print(&format!("{text}\n")));
        self.fault = self.fault.take().or(result.err());
    }
}

impl Observer for Progress {
    fn started(&mut self, info: &RunInfo) {
        self.json(&serde_json::json!({ "event": "started", "run": info }));
        let madds = info.madds as f64 / 1e6;
        self.line(&format!("{}: {} parameters, {madds:.2} M MAdds an image", info.net, grouped(info.params)));
        let [train, val, test] = info.images.map(|n| grouped(n as u64));
        self.line(&format!("{}: {train} images to train on, {val} to validate, {test} to test", info.data));
        for skipped in &info.skipped {
            self.line(&format!("left out {}: {}", skipped.path.display(), skipped.reason));
        }
        if !info.skipped.is_empty() {
            self.line(&format!("left out {} images that cannot be read", info.skipped.len()));
        }
        let [epochs, done] = info.epochs;
        self.line(&format!("{}: {epochs} epochs of {} steps", info.folder.display(), info.steps_per_epoch));
        let steps = done * info.steps_per_epoch + info.steps_done;
        if steps > 0 {
            self.line(&format!("goes on after step {steps}"));
        }
        (self.epochs, self.steps_per_epoch) = (epochs, info.steps_per_epoch);
        if self.telling == Telling::Lines && std::io::stderr().is_terminal() {
            self.bar = bar(epochs * info.steps_per_epoch, steps);
        }
    }

    fn step(&mut self, report: &StepReport) {
        if self.bar.is_hidden() {
            return;
        }
        let StepReport { epoch, loss, top1, learning_rate, images_per_second, .. } = *report;
        let mut text = format!(
            "epoch {epoch}/{}  {images_per_second:.0} images/s  loss {loss:.3}  top-1 {:.1} %  lr {learning_rate:.4}",
            self.epochs,
            100.0 * top1
        );
        if let Some(temperature) = report.temperature {
            text += &format!("  T {temperature:.2}");
        }
        self.bar.set_message(text);
        self.bar.set_position(report.step as u64);
    }

    fn epoch(&mut self, report: &EpochReport, seconds: &EpochSeconds) {
        self.json(&serde_json::json!({ "event": "epoch", "metrics": report, "seconds": seconds }));
        let r = report;
        let mut text = format!(
            "epoch {:>3}/{}  loss {:.4}  top-1 {:5.2} %  validation loss {:.4}  top-1 {:5.2} %  lr {:.4}",
            r.epoch,
            self.epochs,
            r.train_loss,
            100.0 * r.train_top1,
            r.val_loss,
            100.0 * r.val_top1,
            r.learning_rate
        );
        if let Some(temperature) = r.temperature {
            text += &format!("  T {temperature:.2}");
        }
        text += &format!("  {:.0} images/s  {:.1} s", seconds.images_per_second, seconds.train);
        if r.best {
            text += "  best so far";
        }
        self.line(&text);
    }

    fn message(&mut self, text: &str) {
        let result = self.bar.suspend(|| {
            use std::io::Write;
            writeln!(std::io::stderr(), "{text}")
        });
        // Whoever closed standard error does not want to know.
        drop(result);
    }
}

fn bar(steps: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3} %  {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar.set_position(done as u64);
    // What an earlier process did says nothing of this one's speed.
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
