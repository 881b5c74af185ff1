//! A run's numbers on disk: `metrics.csv`, `metrics.jsonl`, TensorBoard events.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::error::TrainError;
use crate::report::{EpochReport, EpochSeconds};
use crate::run_folder::RunFolder;
use crate::tensorboard::EventFile;

const CSV_HEAD: &str =
    "epoch,step,train_loss,train_top1,val_loss,val_top1,val_top5,learning_rate,temperature,best";

/// Writes each epoch's numbers. The table holds nothing that depends on the clock, so that a resumed run ends with the
/// same bytes; the lines of JSON and the events hold the times too.
pub(crate) struct Metrics {
    folder: RunFolder,
    events: EventFile,
}

impl Metrics {
    /// Starts, or goes on after the epochs in `history`; lines of later epochs, left by a run that was cut off between
    /// its metrics and its checkpoint, are dropped.
    pub(crate) fn open(folder: &RunFolder, history: &[EpochReport]) -> Result<Self, TrainError> {
        let metrics = Self { folder: folder.clone(), events: EventFile::create(folder.path())? };
        metrics.write_csv(history)?;
        let path = metrics.jsonl();
        let old = fs::read_to_string(&path).unwrap_or_default();
        let kept: Vec<&str> = old.lines().take(history.len()).collect();
        let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
        folder.write("metrics.jsonl", text.as_bytes())?;
        Ok(metrics)
    }

    fn jsonl(&self) -> PathBuf {
        self.folder.path().join("metrics.jsonl")
    }

    fn write_csv(&self, history: &[EpochReport]) -> Result<(), TrainError> {
        let mut text = format!("{CSV_HEAD}\n");
        for r in history {
            let temperature = r.temperature.map_or(String::new(), |t| t.to_string());
            text += &format!(
                "{},{},{},{},{},{},{},{},{temperature},{}\n",
                r.epoch,
                r.step,
                r.train_loss,
                r.train_top1,
                r.val_loss,
                r.val_top1,
                r.val_top5,
                r.learning_rate,
                u8::from(r.best)
            );
        }
        self.folder.write("metrics.csv", text.as_bytes())
    }

    /// Records the newest epoch of `history`.
    pub(crate) fn epoch(
        &mut self,
        history: &[EpochReport],
        seconds: &EpochSeconds,
    ) -> Result<(), TrainError> {
        let Some(report) = history.last() else { return Ok(()) };
        self.write_csv(history)?;
        let path = self.jsonl();
        let line = serde_json::json!({ "metrics": report, "seconds": seconds });
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{line}")).map_err(|e| TrainError::io(&path, e))?;
        let mut scalars = vec![
            ("loss/train", report.train_loss),
            ("loss/validation", report.val_loss),
            ("top1/train", report.train_top1),
            ("top1/validation", report.val_top1),
            ("top5/validation", report.val_top5),
            ("learning_rate", report.learning_rate),
            ("images_per_second", seconds.images_per_second),
        ];
        scalars.extend(report.temperature.map(|t| ("temperature", f64::from(t))));
        self.events.scalars(report.step as i64, &scalars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn report(epoch: usize) -> EpochReport {
        EpochReport {
            epoch,
            step: 10 * epoch,
            train_loss: 1.5,
            train_top1: 0.25,
            val_loss: 1.25,
            val_top1: 0.5,
            val_top5: 0.875,
            learning_rate: 0.1,
            temperature: Some(2.0),
            best: epoch == 1,
        }
    }

    #[test]
    fn lines_past_the_checkpoint_are_dropped() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&place.path().join("r"), &Config::default()).unwrap();
        let mut metrics = Metrics::open(&folder, &[]).unwrap();
        let history = [report(1), report(2)];
        metrics.epoch(&history[..1], &EpochSeconds::default()).unwrap();
        metrics.epoch(&history, &EpochSeconds::default()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("metrics.csv").lines().nth(2), Some("2,20,1.5,0.25,1.25,0.5,0.875,0.1,2,0"));
        assert_eq!(read("metrics.jsonl").lines().count(), 2);
        Metrics::open(&folder, &history[..1]).unwrap();
        assert_eq!((read("metrics.csv").lines().count(), read("metrics.jsonl").lines().count()), (2, 1));
    }
}
