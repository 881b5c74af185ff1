//! `dynet analyze`: correlation, kernels and coefficients of models, as a report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use dynet_analysis::{AnalysisError, Bands, MapKind, ModelAnalysis, Options, Report, Subject, analyze};
use dynet_data::{BatchOptions, Dataset, OpenOptions, Source, Splits};
use dynet_net::Model;
use dynet_train::RunFolder;

use crate::classifier::read_model;
use crate::fault::{Blame, Fault, Outcome, print};
use crate::table::Table;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Train,
    Val,
    Test,
}

#[derive(Clone, Copy, ValueEnum)]
enum MapsArg {
    /// After batch norm and activation, as the next layer reads it.
    Activated,
    /// After batch norm.
    Normalised,
    /// The convolution's own output.
    Raw,
}

/// Which images, and how they are run.
#[derive(clap::Args)]
pub(crate) struct ImageArgs {
    /// Images: `builtin`, or a folder; by default those that the first run was trained on, else `builtin`.
    #[arg(long, value_name = "builtin|PATH")]
    pub data: Option<Source>,
    /// Which part of the data; by default the validation images, else the test images, else all.
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Images of one batch.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    /// Threads; by default all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Leave out images that cannot be read, and list them, instead of stopping.
    #[arg(long)]
    skip_bad: bool,
}

/// Arguments of `dynet analyze`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model files, or folders of runs for their best models: a dynamic net and its twin, say.
    #[arg(value_name = "MODEL|RUN", required = true, num_args = 1..)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    images: ImageArgs,
    /// Most images to look at.
    #[arg(long = "images", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    count: u32,
    /// The page; figures and numbers go to a folder beside it.
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    /// Lower ends of strong, middle and weak |r|. The paper prints none.
    #[arg(long, value_name = "S,M,W", value_delimiter = ',', num_args = 1, default_value = "0.7,0.4,0.2")]
    bands: Vec<f64>,
    /// Which output of a convolution is its feature map.
    #[arg(long, value_enum, default_value = "activated")]
    maps: MapsArg,
    /// Positions of an image that are taken; larger maps are sampled.
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    positions: u32,
    /// Where the choice of positions comes from.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// The image whose most alike feature maps are drawn, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    picture: usize,
    /// Draw no feature map: a report that shows nothing of any image.
    #[arg(long, conflicts_with = "picture")]
    no_picture: bool,
    /// Most channels of a layer whose matrices are written as numbers, CSV and JSON; pictures there are of all.
    #[arg(long, value_name = "N", default_value_t = 256)]
    matrix_channels: usize,
    /// Print `report.json` instead of the table.
    #[arg(long)]
    json: bool,
    /// Print nothing but the result.
    #[arg(long)]
    quiet: bool,
}

impl Args {
    fn options(&self) -> Result<Options, Fault> {
        let bands: [f64; 3] = self.bands.as_slice().try_into().map_err(|_| {
            Fault::Input(format!("--bands: expected three numbers, as 0.7,0.4,0.2, got {}", self.bands.len()))
        })?;
        Ok(Options {
            maps: match self.maps {
                MapsArg::Activated => MapKind::Activated,
                MapsArg::Normalised => MapKind::Normalised,
                MapsArg::Raw => MapKind::Raw,
            },
            bands: Bands::new(bands).input()?,
            positions: self.positions as usize,
            seed: self.seed,
            picture: (!self.no_picture).then_some(self.picture),
            matrix_channels: self.matrix_channels,
            ..Options::default()
        })
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    let options = args.options()?;
    let named = Named::read(&args.models)?;
    let images = Images::open(&args.images, &args.models)?;
    let tell = |text: &str| {
        if !args.quiet {
            eprintln!("{text}");
        }
    };
    let mut models = Vec::new();
    for one in &named {
        let start = Instant::now();
        models.push(images.analyze(one, args.count as usize, &options)?);
        let (seconds, n) = (start.elapsed().as_secs_f64(), models.last().map_or(0, |m| m.images));
        tell(&format!("{}: {n} images in {seconds:.1} s", one.label));
    }
    let written = report(models, &images, options, &args.out)?;
    if args.json {
        let path = written.files.join("report.json");
        let text = std::fs::read_to_string(&path);
        print(&text.map_err(|e| Fault::Failure(format!("{}: {e}", path.display())))?)?;
    } else {
        print(&written.text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Images of the report with which a run and its twin end: enough for two digits of r, seconds on the built-in ones.
const TWIN_IMAGES: usize = 500;

/// The report of a run and its twin, beside the run's other files: what `dynet train --twin` ends with.
///
/// # Errors
/// Models or images that cannot be used, or files that cannot be written.
pub(crate) fn twin_report([run, twin]: [&Path; 2]) -> Result<Reported, Fault> {
    let runs = [run.to_path_buf(), twin.to_path_buf()];
    let named = Named::read(&runs)?;
    let source = Images::open(&ImageArgs::standard(), &runs)?;
    let options = Options::default();
    let models: Result<Vec<ModelAnalysis>, Fault> =
        named.iter().map(|one| source.analyze(one, TWIN_IMAGES, &options)).collect();
    report(models?, &source, options, &run.join("report.html"))
}

/// A model with its name and place.
pub(crate) struct Named {
    pub(crate) label: String,
    pub(crate) path: PathBuf,
    pub(crate) model: Model,
}

impl Named {
    /// Reads all models; labels are the last parts of their paths, numbered where two are the same.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Self>, Fault> {
        let mut all: Vec<Self> = Vec::new();
        for path in paths {
            let model = read_model(path)?;
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            let name = if path.is_dir() { whole.file_name() } else { path.file_stem() };
            let mut label = name.map_or(path.display().to_string(), |n| n.to_string_lossy().into_owned());
            let same =
                all.iter().filter(|m| m.label == label || m.label.starts_with(&format!("{label} ("))).count();
            if same > 0 {
                label += &format!(" ({})", same + 1);
            }
            all.push(Self { label, path: path.clone(), model });
        }
        Ok(all)
    }
}

/// The images of an analysis.
pub(crate) struct Images {
    /// What they are called.
    pub(crate) name: String,
    classes: Vec<String>,
    dataset: Arc<Dataset>,
    batch: usize,
    pub(crate) threads: usize,
    skip_bad: bool,
}

impl ImageArgs {
    /// What is meant where nothing is said.
    fn standard() -> Self {
        Self { data: None, part: None, batch: 8, threads: None, skip_bad: false }
    }
}

impl Images {
    /// The images that were asked for; by default the validation images of the first run.
    pub(crate) fn open(args: &ImageArgs, models: &[PathBuf]) -> Result<Self, Fault> {
        let mut options = OpenOptions { skip_bad: args.skip_bad, ..OpenOptions::default() };
        let run =
            models.iter().find(|path| path.is_dir()).map(|path| RunFolder::open(path)).transpose().input()?;
        let mut source = args.data.clone();
        if let Some((_, config)) = &run {
            let own = Source::from(config.data.source.clone());
            // The same split as in training: only then are the validation images new to the net.
            if source.as_ref().is_none_or(|s| *s == own) {
                (options.val_fraction, options.seed) = (config.data.val_fraction, config.run.seed);
                options.skip_bad |= config.data.skip_bad;
            }
            source.get_or_insert(own);
        }
        let splits = dynet_data::open(&source.unwrap_or_default(), &options).input()?;
        for skipped in &splits.skipped {
            eprintln!("left out {}: {}", skipped.path.display(), skipped.reason);
        }
        let (part, dataset) = choose(&splits, args.part)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            name: format!("{}, {part}", splits.name),
            classes: splits.classes,
            dataset,
            batch: args.batch.into(),
            threads: args.threads.map_or(cores, usize::from),
            skip_bad: args.skip_bad,
        })
    }

    /// Analyses one model on at most `count` images.
    pub(crate) fn analyze(
        &self,
        one: &Named,
        count: usize,
        options: &Options,
    ) -> Result<ModelAnalysis, Fault> {
        let batches = dynet_data::batches(
            &self.dataset,
            &BatchOptions {
                batch: self.batch,
                epoch: 0,
                // Folders are sorted by class: the first images must be of all of them. The same for all models.
                seed: 0,
                shuffle: true,
                drop_last: false,
                start: 0,
                augment: None,
                preprocessing: one.model.preprocessing.clone(),
                workers: 1,
                ahead: 2,
                skip_bad: self.skip_bad,
            },
        );
        let origin = one.path.display().to_string();
        let subject = Subject { label: &one.label, origin: &origin, model: &one.model };
        analyze(subject, batches, count, self.threads, options, |_| {}).map_err(blame)
    }
}

/// Says who is at fault for an error of the analysis.
pub(crate) fn blame(error: AnalysisError) -> Fault {
    match error {
        AnalysisError::Io { .. } | AnalysisError::Figure { .. } | AnalysisError::Run(_) => {
            Fault::Failure(error.to_string())
        }
        _ => Fault::Input(error.to_string()),
    }
}

/// The part that was asked for, with its name.
fn choose(splits: &Splits, part: Option<Part>) -> Result<(&'static str, Arc<Dataset>), Fault> {
    let val = (!splits.val.is_empty()).then_some(&splits.val);
    let candidates = [
        (Part::Val, "validation images", val),
        (Part::Test, "test images", splits.test.as_ref()),
        (Part::Train, "training images", Some(&splits.train)),
    ];
    let fits = |c: &&(Part, &'static str, Option<&Arc<Dataset>>)| part.map_or(c.2.is_some(), |p| p == c.0);
    match candidates.iter().find(fits) {
        Some((_, name, Some(dataset))) => Ok((name, Arc::clone(dataset))),
        Some((_, name, None)) => Err(Fault::Input(format!("{}: has no {name}", splits.name))),
        None => Err(Fault::Input(format!("{}: has no images", splits.name))),
    }
}

/// Where a report went and what it says.
pub(crate) struct Reported {
    /// The page.
    pub(crate) page: PathBuf,
    files: PathBuf,
    /// For the terminal: table, finding, places.
    pub(crate) text: String,
}

/// Writes the report, and says the finding, a table and where the files are.
fn report(
    models: Vec<ModelAnalysis>,
    images: &Images,
    options: Options,
    out: &Path,
) -> Result<Reported, Fault> {
    let report = Report::new(&images.name, images.classes.clone(), options, models);
    let written = report.write(out).map_err(blame)?;
    let mut table = Table::new(&[
        "<model",
        ">layers",
        ">mean |r|",
        ">strong",
        ">none",
        ">r in [-0.1, 0.2]",
        ">effective rank",
        ">collapsed",
    ]);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for model in &report.models {
        let t = model.totals();
        table.row([
            model.label.clone(),
            model.layers.len().to_string(),
            format!("{:.3}", t.mean_abs),
            percent(t.strong),
            percent(t.none),
            percent(t.near_zero),
            percent(t.rank_share),
            if t.predictors > 0 { format!("{} of {}", t.collapsed, t.predictors) } else { "-".into() },
        ]);
    }
    let text = format!(
        "{}\n{}\n\nreport: {}\nnumbers and {} figures: {}\n",
        table.draw(),
        report.finding(),
        written.page.display(),
        written.figures,
        written.files.display()
    );
    Ok(Reported { page: written.page, files: written.files, text })
}
