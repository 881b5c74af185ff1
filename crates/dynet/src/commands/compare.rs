//! `dynet compare`: runs side by side.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynet_analysis::{ComparedRun, Comparison, Options};
use dynet_engine::{Plan, Session};
use dynet_net::Model;
use dynet_train::RunFolder;

use crate::commands::analyze::{ImageArgs, Images, Named, blame};
use crate::fault::{Blame, Fault, Outcome, print};
use crate::table::Table;

/// Arguments of `dynet compare`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folders of runs, or model files.
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    runs: Vec<PathBuf>,
    #[command(flatten)]
    images: ImageArgs,
    /// Images on which correlation is computed.
    #[arg(long = "images", value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..))]
    count: u32,
    /// The page; figures and numbers go to a folder beside it.
    #[arg(long, value_name = "FILE.html", default_value = "compare.html")]
    out: PathBuf,
    /// Print the table as CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let named = Named::read(&args.runs)?;
    let images = Images::open(&args.images, &args.runs)?;
    let options = Options { cka_images: 0, picture: None, ..Options::default() };
    let mut runs = Vec::new();
    for one in &named {
        let (test_top1, val_top1) = accuracy(&one.path)?;
        let analysis = images.analyze(one, args.count as usize, &options)?;
        let totals = analysis.totals();
        runs.push(ComparedRun {
            name: one.label.clone(),
            origin: analysis.origin,
            net: analysis.net,
            dynamic: analysis.dynamic,
            params: analysis.params,
            madds: analysis.madds,
            test_top1,
            val_top1,
            time_ms: 0.0,
            mean_abs: totals.mean_abs,
            strong: totals.strong,
            near_zero: totals.near_zero,
            rank_share: totals.rank_share,
        });
    }
    let times = milliseconds(&named, images.threads)?;
    runs.iter_mut().zip(times).for_each(|(run, time_ms)| run.time_ms = time_ms);
    let timing = format!(
        "median of one image a batch, {} threads, {}; the runs in turn on this machine",
        images.threads,
        processor()
    );
    let data = format!("at most {} images of {}", args.count, images.name);
    let comparison = Comparison { runs, data, timing };
    let written = comparison.write(&args.out).map_err(blame)?;
    let text = if args.csv {
        comparison.csv()
    } else if args.json {
        serde_json::to_string_pretty(&comparison).failure()? + "\n"
    } else {
        let (page, files) = (written.page.display(), written.files.display());
        format!(
            "{}\n{}\n\npage: {page}\nnumbers and figures: {files}\n",
            table(&comparison),
            comparison.finding()
        )
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn table(comparison: &Comparison) -> String {
    let (head, rows) = comparison.table();
    let head: Vec<String> =
        head.iter().enumerate().map(|(i, h)| format!("{}{h}", if i < 2 { "<" } else { ">" })).collect();
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    rows.into_iter().for_each(|row| table.row(row));
    table.draw()
}

/// Test and validation accuracy as a run's summary states them; a model file, or a run that has not ended, has none.
fn accuracy(path: &Path) -> Result<(Option<f64>, Option<f64>), Fault> {
    if !path.is_dir() {
        return Ok((None, None));
    }
    let (folder, _) = RunFolder::open(path).input()?;
    let summary = folder.summary().input()?;
    Ok(summary.map_or((None, None), |s| (s.test_top1, Some(s.val_top1))))
}

/// What the milliseconds are those of.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim()));
    name.unwrap_or("unknown processor").to_owned()
}

/// Median milliseconds of one image for each model. The models take turns, so that what disturbs the machine disturbs all.
fn milliseconds(models: &[Named], threads: usize) -> Result<Vec<f64>, Fault> {
    const ROUNDS: usize = 12;
    const WARM_UP: usize = 2;
    /// A round of one model.
    const ROUND: Duration = Duration::from_millis(40);
    let mut sessions: Vec<(Session, Vec<f64>)> = Vec::new();
    for one in models {
        sessions.push((session(&one.model, threads)?, Vec::new()));
    }
    for round in 0..WARM_UP + ROUNDS {
        for ((session, times), one) in sessions.iter_mut().zip(models) {
            let len = one.model.net.input().len();
            let started = Instant::now();
            for run in 0.. {
                // Another image each time, never zeros: multiples of the golden ratio spread over -1 to 1.
                let value = |i: usize| (((round + run) * len + i) as f32 * 0.618_034).fract() * 2.0 - 1.0;
                let image: Vec<f32> = (0..len).map(value).collect();
                let start = Instant::now();
                session.run(&image).failure()?;
                if round >= WARM_UP {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                if started.elapsed() > ROUND {
                    break;
                }
            }
        }
    }
    let median = |(_, mut times): (Session, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok(sessions.into_iter().map(median).collect())
}

fn session(model: &Model, threads: usize) -> Result<Session, Fault> {
    let plan = Plan::compile(&model.net, &model.weights, &Default::default()).input()?;
    Session::new(Arc::new(plan), threads).failure()
}
