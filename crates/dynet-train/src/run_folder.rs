//! The folder of a run: `config.toml`, environment, metrics, weights, checkpoints, log, curves.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dynet_net::model::write_atomic;
use dynet_nn::DeviceName;

use crate::config::Config;
use crate::config_file::parse;
use crate::error::TrainError;
use crate::report::Summary;

const SUMMARY: &str = "summary.json";

/// Where everything of one run lies.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder of a new run, with its configuration in it before anything else.
    ///
    /// # Errors
    /// A folder that holds something already, or what the system refused.
    pub fn create(path: &Path, config: &Config) -> Result<Self, TrainError> {
        if path.exists() && fs::read_dir(path).map_err(|e| TrainError::io(path, e))?.next().is_some() {
            let problem = "exists and is not empty; name another run, or resume this one";
            return Err(TrainError::folder(path, problem));
        }
        let folder = Self { path: path.into() };
        for sub in ["weights", "checkpoints", "plots"] {
            let sub = path.join(sub);
            fs::create_dir_all(&sub).map_err(|e| TrainError::io(&sub, e))?;
        }
        folder.write("config.toml", config.to_toml().as_bytes())?;
        folder.write("environment.json", environment(config.run.device).as_bytes())?;
        Ok(folder)
    }

    /// Opens the folder of a run that was started before.
    ///
    /// # Errors
    /// A folder without a `config.toml`, or with one that cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Config), TrainError> {
        let file = path.join("config.toml");
        if !file.is_file() {
            return Err(TrainError::folder(path, "expected the folder of a run, found no config.toml in it"));
        }
        let text = fs::read_to_string(&file).map_err(|e| TrainError::io(&file, e))?;
        let config = parse(&text, &file.display().to_string())?;
        config.check()?;
        Ok((Self { path: path.into() }, config))
    }

    /// The result of the run, once all of its epochs are done.
    ///
    /// # Errors
    /// A `summary.json` that cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>, TrainError> {
        let path = self.path.join(SUMMARY);
        if !path.is_file() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(|e| TrainError::io(&path, e))?;
        let summary: Summary =
            serde_json::from_str(&text).map_err(|e| TrainError::folder(&path, e.to_string()))?;
        // The folder may have been moved since.
        Ok(Some(Summary { folder: self.path.clone(), best: self.best(), ..summary }))
    }

    pub(crate) fn write_summary(&self, summary: &Summary) -> Result<(), TrainError> {
        let path = self.path.join(SUMMARY);
        let text =
            serde_json::to_string_pretty(summary).map_err(|e| TrainError::folder(&path, e.to_string()))?;
        self.write(SUMMARY, text.as_bytes())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model with the best validation accuracy.
    pub fn best(&self) -> PathBuf {
        self.path.join("weights/best.safetensors")
    }

    /// The model of the last epoch.
    pub fn last(&self) -> PathBuf {
        self.path.join("weights/last.safetensors")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Writes a file of the folder whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        let path = self.path.join(name);
        write_atomic(&path, bytes).map_err(|e| TrainError::io(&path, e))
    }

    /// Adds a line to `log.txt`.
    pub(crate) fn log(&self, line: &str) -> Result<(), TrainError> {
        let path = self.path.join("log.txt");
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        file.and_then(|mut file| writeln!(file, "{} {line}", utc(seconds)))
            .map_err(|e| TrainError::io(&path, e))
    }
}

/// A name for a run that nobody named: net, twin or not, seed, time.
pub fn default_name(config: &Config) -> String {
    let twin = if config.model.twin { "-twin" } else { "" };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let time = utc(seconds).replace([':', '-'], "").replace('T', "-").replace('Z', "");
    format!("{}{twin}-s{}-{time}", config.model.net, config.run.seed)
}

/// `2026-01-31T23:59:59Z` from seconds since 1970.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in the proleptic Gregorian calendar; years begin in March, so that the leap day ends them.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// What a run's numbers depend on beside its configuration.
fn environment(device: DeviceName) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim()));
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let value = serde_json::json!({
        "dynet": env!("CARGO_PKG_VERSION"),
        "started": utc(seconds),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "cpu": model.unwrap_or("unknown"),
        "device": device,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_never_overwrites_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/a");
        RunFolder::create(&path, &Config::default()).unwrap();
        assert!(path.join("config.toml").is_file() && path.join("environment.json").is_file());
        let text = RunFolder::create(&path, &Config::default()).unwrap_err().to_string();
        assert!(text.contains("not empty"), "{text}");
        assert_eq!(RunFolder::open(&path).unwrap().1, Config::default());
        assert!(RunFolder::open(folder.path()).unwrap_err().to_string().contains("no config.toml"));
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
