//! `dynet bench --train`: how long a training step takes, and what takes how much of it.

use std::process::ExitCode;

use dynet_net::Net;
use dynet_nn::DeviceName;
use serde::Serialize;

use super::bench::peak_memory_bytes;
use crate::fault::{Blame, Fault, Outcome, blame, print};

/// Steps that are timed; two before them are not.
const STEPS: usize = 7;

/// What was measured; times in milliseconds.
#[derive(Serialize)]
struct Record {
    net: String,
    batch: usize,
    size: [usize; 2],
    threads: usize,
    device: String,
    steps: usize,
    median_ms: f64,
    data_ms: f64,
    forward_ms: f64,
    backward_ms: f64,
    optimizer_ms: f64,
    /// Weights of all kinds.
    parameters: u64,
    /// Greatest resident memory of the process; `None` where the system does not tell.
    peak_memory_bytes: Option<u64>,
}

pub(crate) fn run(net: &Net, batch: usize, threads: usize, device: DeviceName, json: bool) -> Outcome {
    if !(1..=4096).contains(&batch) {
        return Err(Fault::Input(format!("--batch: expected 1 to 4096, got {batch}")));
    }
    dynet_nn::set_threads(threads);
    let times = dynet_nn::time_steps(net, batch, STEPS, device, false);
    let medians = times.map_err(|e| blame(e.into()))?.medians_ms();
    let [median_ms, data_ms, forward_ms, backward_ms, optimizer_ms] = medians;
    let image = net.input();
    let record = Record {
        net: net.name().to_owned(),
        batch,
        size: [image.h, image.w],
        threads,
        device: device.to_string(),
        steps: STEPS,
        median_ms,
        data_ms,
        forward_ms,
        backward_ms,
        optimizer_ms,
        parameters: dynet_net::cost(net).params,
        peak_memory_bytes: peak_memory_bytes(),
    };
    print(&describe(&record))?;
    if json {
        print(&(serde_json::to_string(&record).failure()? + "\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(r: &Record) -> String {
    let share = |ms: f64| 100.0 * ms / r.median_ms;
    let memory = r.peak_memory_bytes.map_or(String::new(), |b| format!(", {} MiB at most", b >> 20));
    format!(
        "{}, {} images of {} x {}, {} threads, {}: a training step takes {:.1} ms (median of {}){memory}\n\
         data {:.0} %, forward {:.0} %, backward {:.0} %, optimizer {:.0} %\n",
        r.net,
        r.batch,
        r.size[0],
        r.size[1],
        r.threads,
        r.device,
        r.median_ms,
        r.steps,
        share(r.data_ms),
        share(r.forward_ms),
        share(r.backward_ms),
        share(r.optimizer_ms),
    )
}
