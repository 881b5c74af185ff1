//! `dynet bench`: how long a net takes, and how long its layers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynet_engine::{Peaks, Plan, Session, StepTime};
use dynet_net::Net;
use dynet_nn::DeviceName;
use serde::Serialize;

use super::infer::{check_channels, image_size};
use crate::engine_args::{EngineArgs, WeightArgs};
use crate::fault::{Blame, Fault, Outcome, print};
use crate::floor::Floor;
use crate::net_args::NetArgs;
use crate::npy::Array;
use crate::table::{Table, grouped};

/// Arguments of `dynet bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A network of the zoo or a model file.
    #[arg(value_name = "NET|MODEL")]
    net: String,
    /// Images [n, c, h, w] of f32; seeded random ones if not given.
    #[arg(long, value_name = "X.npy")]
    input: Option<PathBuf>,
    /// Logits [n, classes] that the net should give: adds the largest error.
    #[arg(long, value_name = "Y.npy")]
    expect: Option<PathBuf>,
    /// Images of a run; those of --input are repeated or cut.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Time to measure for.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Print a table of the layers.
    #[arg(long)]
    layers: bool,
    /// Time a training step instead.
    #[arg(long, conflicts_with_all = ["input", "expect", "layers", "seconds"])]
    train: bool,
    /// What trains, with --train; see `dynet train --help`.
    #[arg(long, value_name = "DEVICE", default_value_t, requires = "train")]
    device: DeviceName,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    options: NetArgs,
}

/// What was measured; times in milliseconds a run.
#[derive(Serialize)]
struct Record {
    net: String,
    batch: usize,
    threads: usize,
    isa: &'static str,
    experts: String,
    precision: String,
    runs: usize,
    median_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    min_ms: f64,
    images_per_second: f64,
    /// Greatest resident memory of the process; `None` where the system does not tell.
    peak_memory_bytes: Option<u64>,
    weight_bytes: usize,
    session_bytes: usize,
    /// What this machine was measured to do at most, with these threads.
    peak_gflops: f64,
    peak_bf16_gflops: f64,
    peak_memory_gb_per_s: f64,
    peak_cache_gb_per_s: f64,
    floor_ms: f64,
    ratio_to_floor: f64,
    /// Largest error against --expect, absolute and relative to the largest logit.
    max_err: Option<f64>,
    relative_err: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if args.train {
        let net = args.options.net_or_model(&args.net)?.into_net();
        let batch = args.batch.unwrap_or(32);
        return super::bench_train::run(&net, batch, args.engine.threads()?, args.device, args.json);
    }
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Fault::Input(format!("--seconds: expected 0 to 3600, got {}", args.seconds)));
    }
    let input = args.input.as_deref().map(Array::read).transpose()?;
    let size = input.as_ref().map(|x| image_size(x).map(|(_, size)| size)).transpose()?;
    let (net, weights) = args.weights.load(&args.net, &args.options, size)?;
    let images = images(args, &net, input)?;
    let batch = images.len() / net.input().len();
    let threads = args.engine.threads()?;
    let plan = Arc::new(Plan::compile(&net, &weights, &args.engine.options()?).input()?);
    drop(weights);
    let peaks = Peaks::measure(plan.options().isa, threads);
    let floor = Floor::new(peaks, &plan.layers());
    let mut session = Session::new(Arc::clone(&plan), threads).failure()?;
    let times = measure(&mut session, &images, args.seconds).input()?;
    let logits = session.run(&images).input()?;
    let errors = args.expect.as_deref().map(|path| errors(logits, path)).transpose()?;
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize] * 1e3;
    let floor_ms = floor.total(&plan.layers(), batch) * 1e3;
    let record = Record {
        net: net.name().to_owned(),
        batch,
        threads,
        isa: plan.options().isa.name(),
        experts: format!("{:?}", plan.options().experts).to_lowercase(),
        precision: format!("{:?}", plan.options().precision).to_lowercase(),
        runs: times.len(),
        median_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        min_ms: at(0.0),
        images_per_second: batch as f64 / at(0.5) * 1e3,
        peak_memory_bytes: peak_memory_bytes(),
        weight_bytes: plan.weight_bytes(),
        session_bytes: plan.session_bytes(batch, threads),
        peak_gflops: peaks.flops / 1e9,
        peak_bf16_gflops: peaks.bf16_flops / 1e9,
        peak_memory_gb_per_s: peaks.memory / 1e9,
        peak_cache_gb_per_s: peaks.cache / 1e9,
        floor_ms,
        ratio_to_floor: at(0.5) / floor_ms,
        max_err: errors.map(|e| e[0]),
        relative_err: errors.map(|e| e[1]),
    };
    print(&describe(&record))?;
    if args.layers {
        print(&layers(&mut session, &floor, &images, record.runs.min(200))?)?;
    }
    if args.json {
        print(&(serde_json::to_string(&record).failure()? + "\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As many images as a run takes.
fn images(args: &Args, net: &Net, input: Option<Array>) -> Result<Vec<f32>, Fault> {
    let len = net.input().len();
    let batch = match (&input, args.batch) {
        (_, Some(n @ 1..=4096)) => n,
        (_, Some(n)) => return Err(Fault::Input(format!("--batch: expected 1 to 4096, got {n}"))),
        (Some(x), None) => x.shape[0],
        (None, None) => 1,
    };
    let Some(input) = input else {
        // A Weyl sequence: dense, never zero for long, the same in every run.
        let next = |i: usize| ((i as u32).wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        return Ok((0..batch * len).map(next).collect());
    };
    check_channels(&input, net.input().c)?;
    Ok(input.data.iter().copied().cycle().take(batch * len).collect())
}

/// Seconds of each run, sorted; the first runs, which warm up, are not among them.
fn measure(session: &mut Session, images: &[f32], seconds: f64) -> Result<Vec<f64>, dynet_engine::RunError> {
    for _ in 0..3 {
        session.run(images)?;
    }
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut times = Vec::new();
    while Instant::now() < end || times.len() < 5 {
        let start = Instant::now();
        session.run(images)?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

/// The largest error, absolute and relative to the largest logit expected.
fn errors(logits: &[f32], path: &Path) -> Result<[f64; 2], Fault> {
    let expected = Array::read(path)?;
    if expected.data.len() != logits.len() {
        let (want, got) = (logits.len(), &expected.shape);
        return Err(Fault::Input(format!("--expect: expected {want} logits, got shape {got:?}")));
    }
    let pairs = logits.iter().zip(&expected.data);
    // A logit that is not a number is an infinite error, which no maximum may swallow.
    let error =
        pairs.map(|(a, b)| f64::from((a - b).abs())).map(|e| if e.is_nan() { f64::INFINITY } else { e });
    let error = error.fold(0.0, f64::max);
    let scale = expected.data.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    Ok([error, error / f64::from(scale)])
}

/// Greatest resident memory of this process so far, as Linux tells it.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn describe(r: &Record) -> String {
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / (1 << 20) as f64);
    let peak = r.peak_memory_bytes.map_or("not known".into(), |b| mib(b as f64));
    let mut text = format!(
        "{}, batch {}, {} threads, {}, experts {}, precision {}\n\
         median {:.3} ms, p90 {:.3}, p99 {:.3}, min {:.3} over {} runs; {:.1} images/s\n\
         memory: peak {peak}, weights {}, session {}\n\
         floor {:.3} ms: {:.2} times; peaks measured here: {:.0} GFLOP/s, {:.0} in bf16, {:.1} GB/s from memory, {:.1} from the cache\n",
        r.net,
        r.batch,
        r.threads,
        r.isa,
        r.experts,
        r.precision,
        r.median_ms,
        r.p90_ms,
        r.p99_ms,
        r.min_ms,
        r.runs,
        r.images_per_second,
        mib(r.weight_bytes as f64),
        mib(r.session_bytes as f64),
        r.floor_ms,
        r.ratio_to_floor,
        r.peak_gflops,
        r.peak_bf16_gflops,
        r.peak_memory_gb_per_s,
        r.peak_cache_gb_per_s
    );
    if let (Some(max), Some(relative)) = (r.max_err, r.relative_err) {
        text += &format!("largest error {max:.2e}, {relative:.2e} of the largest logit\n");
    }
    text
}

/// The table of layers, each with the mean of its times.
fn layers(session: &mut Session, floor: &Floor, images: &[f32], runs: usize) -> Result<String, Fault> {
    let layers = session.plan().layers();
    let batch = images.len() / session.plan().net().input().len();
    let mut times = vec![StepTime::default(); layers.len()];
    for _ in 0..runs {
        session.run_timed(images, &mut times).input()?;
    }
    let head = [
        "<layer",
        "<algorithm",
        "<output",
        ">us",
        ">fusing us",
        ">GFLOP/s",
        ">KiB weights",
        ">KiB maps",
        ">floor",
    ];
    let mut table = Table::new(&head);
    let (mut total, mut predictors, mut fusion) = (0.0, 0.0, 0.0);
    for (layer, time) in layers.iter().zip(&times) {
        let [seconds, fusing] = [time.total, time.fusing].map(|t| t.as_secs_f64() / runs as f64);
        total += seconds;
        fusion += fusing;
        predictors += if layer.is_predictor { seconds } else { 0.0 };
        let flop = 2.0 * (layer.madds + layer.fusion_madds) as f64 * batch as f64;
        let share = 100.0 * floor.layer(layer, batch) / seconds;
        let or_blank = |text: String| if flop > 0.0 { text } else { String::new() };
        table.row([
            layer.name.clone(),
            layer.algorithm.to_owned(),
            layer.output.to_string(),
            format!("{:.1}", seconds * 1e6),
            if layer.fusion_madds > 0 { format!("{:.1}", fusing * 1e6) } else { String::new() },
            or_blank(format!("{:.0}", flop / seconds / 1e9)),
            or_blank(grouped(layer.weight_bytes as u64 / 1024)),
            grouped(layer.map_bytes as u64 * batch as u64 / 1024),
            or_blank(format!("{share:.0} %")),
        ]);
    }
    let note = format!(
        "all layers {:.1} us, of which predictors {:.1} and fusing by itself {:.1}; floor: share of the layer's own\n",
        total * 1e6,
        predictors * 1e6,
        fusion * 1e6
    );
    Ok(format!("\n{}\n{note}", table.draw()))
}
