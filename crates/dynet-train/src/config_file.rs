//! Reading a configuration: defaults, then a file, then single values; whatever is unknown is an error.

use std::path::{Path, PathBuf};

use crate::config::Config;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("{origin}: {problem}")]
    Syntax {
        /// The file, or the single value.
        origin: String,
        /// What is wrong, with the nearest known key where one is unknown.
        problem: String,
    },
    /// A value out of range.
    #[error("{key}: expected {expected}, got {got}")]
    Value {
        /// The key, `section.name`.
        key: String,
        /// What would be accepted.
        expected: String,
        /// What was found.
        got: String,
    },
}

impl ConfigError {
    pub(crate) fn value(key: &str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Value { key: key.into(), expected: expected.into(), got: got.to_string() }
    }
}

impl Config {
    /// Reads a configuration: the defaults, over them the file, over it each `section.key=value`.
    ///
    /// Whoever names a net (`model.net`) gets it as the zoo has it; the main job's width and kernels belong to the
    /// main job's net alone.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, an unknown key (with the nearest known one), a value of another
    /// type or out of range.
    pub fn load(path: Option<&Path>, sets: &[String]) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Io { path: path.into(), source })?;
            let origin = path.display().to_string();
            // Read into a configuration first: its errors still know the line.
            parse(&text, &origin)?;
            table = toml::from_str(&text).map_err(|e| syntax(&origin, &e))?;
        }
        for set in sets {
            let (key, value) = set.split_once('=').ok_or_else(|| ConfigError::Syntax {
                origin: format!("--set {set}"),
                problem: "expected section.key=value".into(),
            })?;
            insert(&mut table, key.trim(), scalar(value.trim()))
                .map_err(|problem| ConfigError::Syntax { origin: format!("--set {set}"), problem })?;
            // One by one, so that the message names the setting at fault.
            merged(&table, &format!("--set {set}"))?;
        }
        let config = merged(&over_main_job(table), "configuration")?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML.
    ///
    /// # Panics
    /// Never: every configuration has a TOML form.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("strings, numbers and tables are TOML")
    }
}

/// Reads a configuration from TOML; what is not given keeps its default.
///
/// # Errors
/// As [`Config::load`].
pub(crate) fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|e| syntax(origin, &e))
}

fn merged(table: &toml::Table, origin: &str) -> Result<Config, ConfigError> {
    table.clone().try_into().map_err(|e| syntax(origin, &e))
}

/// The defaults, which are the main job's, with `given` on top. A net that is named has none of the main job's.
fn over_main_job(given: toml::Table) -> toml::Table {
    let mut table = toml::Table::try_from(Config::default()).unwrap_or_default();
    if given.get("model").is_some_and(|model| model.get("net").is_some()) {
        table.remove("model");
    }
    merge(&mut table, given);
    table
}

/// Values of which one form takes the place of another, tables though they are.
const FORMS: [&str; 2] = ["crop", "activation"];

/// Puts `top` over `base`, section by section.
fn merge(base: &mut toml::Table, top: toml::Table) {
    for (key, value) in top {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above))
                if !FORMS.contains(&key.as_str()) =>
            {
                merge(below, above);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn syntax(origin: &str, error: &toml::de::Error) -> ConfigError {
    let mut problem = error.to_string().trim_end().to_owned();
    if let Some(nearest) = nearest_known(error.message()) {
        problem += &format!("\ndid you mean `{nearest}`?");
    }
    ConfigError::Syntax { origin: origin.into(), problem }
}

/// From "unknown field `epoch`, expected one of `epochs`, `batch`": the known name nearest to the unknown one.
fn nearest_known(message: &str) -> Option<String> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let similarity = |name: &&str| strsim::jaro_winkler(unknown, name);
    quoted.max_by(|a, b| similarity(a).total_cmp(&similarity(b))).map(str::to_owned)
}

/// A TOML value; a bare word is a string.
fn scalar(text: &str) -> toml::Value {
    let parsed: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => toml::Value::String(text.into()),
    }
}

fn insert(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    match key.split_once('.') {
        None if key.is_empty() => Err("expected a key before `=`".into()),
        None => {
            table.insert(key.into(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match inner {
                toml::Value::Table(inner) => insert(inner, rest, value),
                _ => Err(format!("{section} holds a value, expected a section")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(list: &[&str]) -> Result<Config, ConfigError> {
        Config::load(None, &list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_pass_their_own_check_and_survive_the_file() {
        let config = Config::load(None, &[]).unwrap();
        assert_eq!(parse(&config.to_toml(), "x").unwrap(), config);
    }

    #[test]
    fn single_values_go_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[run]\nepochs = 3\nbatch = 16\n").unwrap();
        let config =
            Config::load(Some(&path), &["run.batch=32".into(), "data.source=some/folder".into()]).unwrap();
        assert_eq!((config.run.epochs, config.run.batch), (3, 32));
        assert_eq!(config.data.source, "some/folder");
    }

    #[test]
    fn a_net_that_is_named_has_the_zoos_design_and_the_main_jobs_net_keeps_its_own() {
        let named = sets(&["model.net=mobilenet_v2"]).unwrap().model;
        assert_eq!((named.width, named.dynamic), (1.0, None));
        let main = sets(&["model.width=0.25", "model.dynamic.dropout=0.5"]).unwrap().model;
        let dynamic = main.dynamic.unwrap();
        let experts = Config::default().model.dynamic.unwrap().experts;
        assert_eq!((main.width, dynamic.experts, dynamic.dropout), (0.25, experts, 0.5));
        let augment = sets(&["augment.flip=0"]).unwrap().augment;
        assert_eq!((augment.flip, augment.crop), (0.0, Config::default().augment.crop));
        let resized = sets(&["augment.crop={resized={scale=[0.5, 1.0], ratio=[1.0, 1.0]}}"]).unwrap();
        assert!(matches!(resized.augment.crop, dynet_data::Crop::Resized { .. }));
        for config in [sets(&["model.net=mobilenet_v2"]).unwrap(), Config::default()] {
            assert_eq!(parse(&config.to_toml(), "x").unwrap(), config);
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        for (set, nearest) in
            [("run.epoch=3", "epochs"), ("optimiser.ema=0", "optimizer"), ("optimizer.rule=sdg", "sgd")]
        {
            let text = sets(&[set]).unwrap_err().to_string();
            assert!(text.contains(&format!("did you mean `{nearest}`")), "{text}");
        }
    }

    #[test]
    fn values_out_of_range_say_what_was_expected() {
        let cases =
            ["run.batch=0", "optimizer.learning_rate=nan", "optimizer.ema=1.0", "data.val_fraction=2"];
        for case in cases {
            let text = sets(&[case]).unwrap_err().to_string();
            assert!(text.contains("expected") && text.contains("got"), "{text}");
        }
        assert!(sets(&["run.batch"]).is_err());
        assert!(sets(&["run.batch.x=1"]).is_err());
        assert!(sets(&["run.batch=many"]).is_err());
    }
}
