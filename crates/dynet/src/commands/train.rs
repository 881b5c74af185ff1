//! `dynet train`: a net, and with `--twin` its static twin after it, from images to a folder of results.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dynet_net::Model;
use dynet_train::{Config, DeviceName, Outcome as Ended, RunFolder, Setup, Summary, default_name, train};

use crate::classifier::milliseconds_an_image;
use crate::commands::analyze::twin_report;
use crate::fault::{Blame, Fault, Outcome, blame, print};
use crate::net_args::DesignArgs;
use crate::progress::{Progress, Telling};
use crate::table::{Table, grouped};

/// What a shell reports for a command that an interrupt ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Arguments of `dynet train`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Images: `builtin`, or a folder (ImageFolder, IDX files, CIFAR-10 or CIFAR-100 binary files).
    #[arg(long, value_name = "builtin|PATH")]
    data: Option<String>,
    /// A network of the zoo (`dynet models` lists them); by default a narrow dynamic ResNet18.
    #[arg(long, value_name = "NET")]
    model: Option<String>,
    /// Train the static twin too, with the same seed and data, and compare the two.
    #[arg(long)]
    twin: bool,
    /// Passes over the training images.
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// A recipe as TOML; the `config.toml` of any run is one.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// One value of the recipe, over the file's: `--set optimizer.learning_rate=0.05`. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Everything random follows from it.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Name of the run: its folder is `runs/NAME`.
    #[arg(long, value_name = "RUN")]
    name: Option<String>,
    /// Go on with a run that was stopped: its name or its folder.
    #[arg(long, value_name = "RUN")]
    resume: Option<String>,
    /// Folder of all runs.
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    runs: PathBuf,
    /// What trains: cpu, wgpu, cuda, rocm, metal, with :INDEX for one of several; all but cpu need a build with
    /// the feature of that name.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceName>,
    /// Leave out images that cannot be read, and list them, instead of stopping.
    #[arg(long)]
    skip_bad: bool,
    /// Print the result alone.
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Print one JSON object a line: started, epoch, finished.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    design: DesignArgs,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let stop = stop_at_interrupt()?;
    let (config, path) = match &args.resume {
        Some(run) => args.resumed(run)?,
        None => args.fresh()?,
    };
    let twin = args.twin.then(|| args.twin_of(&config, &path)).transpose()?;
    let first = path.clone();
    let mut results = Vec::new();
    for (config, path) in [Some((config, path)), twin].into_iter().flatten() {
        match args.train(&config, &path, &stop)? {
            Ended::Finished(summary) => results.push(Finished::new(summary)?),
            Ended::Stopped { step, .. } => {
                eprintln!("stopped after step {step}; go on with: {}", args.resume_command(&first));
                return Ok(ExitCode::from(INTERRUPTED));
            }
        }
    }
    if args.json {
        for result in &results {
            let Finished { summary, ms } = result;
            let line = serde_json::json!({ "event": "finished", "summary": summary, "ms_an_image": ms });
            print(&format!("{line}\n"))?;
        }
    } else {
        print(&describe(&results))?;
    }
    if let [net, twin] = &results[..] {
        let report = twin_report([&net.summary.folder, &twin.summary.folder])?;
        let event = || serde_json::json!({ "event": "report", "page": report.page });
        print(&if args.json { format!("{}\n", event()) } else { format!("\n{}", report.text) })?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Recipe and folder of a new run.
    fn fresh(&self) -> Result<(Config, PathBuf), Fault> {
        let mut sets = self.set.clone();
        // A flag says more than a setting: the last one counts. Rust's quoting of a name is TOML's.
        sets.extend(self.model.iter().map(|net| format!("model.net={net:?}")));
        sets.extend(self.epochs.map(|epochs| format!("run.epochs={epochs}")));
        sets.extend(self.skip_bad.then(|| "data.skip_bad=true".to_owned()));
        let mut config = Config::load(self.config.as_deref(), &sets).input()?;
        config.run.seed = self.seed.unwrap_or(config.run.seed);
        config.data.source = self.data.clone().unwrap_or(config.data.source);
        config.run.device = self.device.unwrap_or(config.run.device);
        self.design.apply(&mut config.model)?;
        config.check().input()?;
        let name = self.name.clone().unwrap_or_else(|| default_name(&config));
        Ok((config, self.folder(&name)?))
    }

    /// Recipe and folder of a run that was started before.
    fn resumed(&self, run: &str) -> Result<(Config, PathBuf), Fault> {
        let given = [
            ("--data", self.data.is_some()),
            ("--model", self.model.is_some()),
            ("--epochs", self.epochs.is_some()),
            ("--config", self.config.is_some()),
            ("--set", !self.set.is_empty()),
            ("--seed", self.seed.is_some()),
            ("--name", self.name.is_some()),
            ("--skip-bad", self.skip_bad),
            ("options of the network", self.design.is_given()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            let text =
                format!("--resume takes the recipe of the run as it is; it was given together with {option}");
            return Err(Fault::Input(text));
        }
        let path = if Path::new(run).is_dir() { PathBuf::from(run) } else { self.folder(run)? };
        let (_, config) = RunFolder::open(&path).input()?;
        Ok((self.on_device(config), path))
    }

    /// A recipe of a run that goes on, perhaps on another device.
    fn on_device(&self, mut config: Config) -> Config {
        config.run.device = self.device.unwrap_or(config.run.device);
        config
    }

    /// Where the run `name` lies.
    fn folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let plain = Path::new(name).file_name().is_some_and(|last| last == name);
        if !plain {
            let text =
                format!("{name}: expected the name of a run, without slashes; --runs says where runs lie");
            return Err(Fault::Input(text));
        }
        Ok(self.runs.join(name))
    }

    /// Recipe and folder of the static twin of a run.
    fn twin_of(&self, config: &Config, path: &Path) -> Result<(Config, PathBuf), Fault> {
        if config.model.twin {
            return Err(Fault::Input("--twin: the run is that of a twin itself".into()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let path = path.with_file_name(format!("{name}-twin"));
        let mut config = config.clone();
        config.model.twin = true;
        Ok((config, path))
    }

    /// Trains in `path`: a new run, or with `--resume` the one that is there.
    fn train(&self, config: &Config, path: &Path, stop: &AtomicBool) -> Result<Ended, Fault> {
        let old = (self.resume.is_some() && path.exists()).then(|| RunFolder::open(path)).transpose();
        let old = old.map_err(blame)?;
        if let Some((folder, _)) = &old
            && let Some(summary) = folder.summary().map_err(blame)?
        {
            return Ok(Ended::Finished(summary));
        }
        let resumed = old.as_ref().map(|(_, config)| self.on_device(config.clone()));
        let config = resumed.as_ref().unwrap_or(config);
        let setup = Setup::new(config).map_err(blame)?;
        if self.twin && !config.model.twin && !setup.net().is_dynamic() {
            let text =
                format!("--twin: {} is static and has none; --dynamic K makes it dynamic", config.model.net);
            return Err(Fault::Input(text));
        }
        let folder = match &old {
            Some((folder, _)) => folder.clone(),
            None => RunFolder::create(path, config).map_err(blame)?,
        };
        let telling = match (self.json, self.quiet) {
            (true, _) => Telling::Json,
            (_, true) => Telling::Quiet,
            _ => Telling::Lines,
        };
        let mut progress = Progress::new(telling);
        let outcome = train(config, setup, &folder, &mut progress, stop);
        progress.end()?;
        outcome.map_err(blame)
    }

    /// What takes the run up again.
    fn resume_command(&self, path: &Path) -> String {
        let twin = if self.twin { " --twin" } else { "" };
        format!("dynet train{twin} --resume {}", path.display())
    }
}

/// A finished run and the speed of its best model.
struct Finished {
    summary: Summary,
    /// Milliseconds of one image.
    ms: f64,
}

impl Finished {
    fn new(summary: Summary) -> Result<Self, Fault> {
        let model = Model::read(&summary.best).failure()?;
        Ok(Self { ms: milliseconds_an_image(&model)?, summary })
    }
}

/// The results as a table, and where the files are.
fn describe(results: &[Finished]) -> String {
    let mut table = Table::new(&[
        "<net",
        ">test top-1",
        ">validation",
        ">parameters",
        ">MAdds (10^6)",
        ">ms an image",
        ">training",
        "<files",
    ]);
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    for Finished { summary, ms } in results {
        table.row([
            summary.net.as_str(),
            &summary.test_top1.map_or("-".into(), percent),
            &percent(summary.val_top1),
            &grouped(summary.params),
            &format!("{:.2}", summary.madds as f64 / 1e6),
            &format!("{ms:.2}"),
            &format!("{:.0} s", summary.train_seconds),
            &summary.folder.display().to_string(),
        ]);
    }
    let mut text = format!("\n{}", table.draw());
    if let [net, twin] = results
        && let (Some(a), Some(b)) = (net.summary.test_top1, twin.summary.test_top1)
    {
        let points = 100.0 * (a - b);
        text += &format!("\nThe dynamic net is {points:+.2} points of test top-1 from its static twin.\n");
    }
    text +=
        "\nIn each folder: weights/best.safetensors (the model), metrics.csv, plots/*.svg, config.toml.\n";
    text
}

/// A flag that the first interrupt sets; the second one leaves at once.
fn stop_at_interrupt() -> Result<Arc<AtomicBool>, Fault> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\nfinishing the step and saving; once more leaves at once");
    })
    .failure()?;
    Ok(stop)
}
