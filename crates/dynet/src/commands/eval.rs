//! `dynet eval`: how well a model does on a data set.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use dynet_data::{Dataset, OpenOptions, Source, Splits};
use dynet_train::{DeviceName, EvaluateOptions, Evaluation, Runtime, classifier, evaluate};

use crate::classifier::read_model;
use crate::engine_args::EngineArgs;
use crate::fault::{Blame, Fault, Outcome, blame, print};
use crate::table::{Table, grouped};

/// Classes up to which the confusion matrix fits a screen.
const MATRIX_CLASSES: usize = 20;
/// Confusions that are listed in its place.
const LISTED: usize = 20;

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Train,
    Val,
    Test,
}

/// Arguments of `dynet eval`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model file, or the folder of a run for its best model.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Images: `builtin`, or a folder (ImageFolder, IDX files, CIFAR-10 or CIFAR-100 binary files).
    #[arg(long, value_name = "builtin|PATH", default_value = "builtin")]
    data: Source,
    /// Which part of the data; by default the test images, else the validation images, else all.
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Images of one batch.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// What runs the model: `cpu` is the inference engine; see `dynet train --help` for the others.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// Leave out images that cannot be read, and list them, instead of stopping.
    #[arg(long)]
    skip_bad: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let runtime = args.engine.runtime(args.device)?;
    let model = read_model(&args.model)?;
    let options = OpenOptions { draw: false, skip_bad: args.skip_bad, ..OpenOptions::default() };
    let splits = dynet_data::open(&args.data, &options).input()?;
    let (part, dataset) = choose(&splits, args.part)?;
    let options = EvaluateOptions {
        batch: args.batch.into(),
        skip_bad: args.skip_bad,
        labels: Some(label_map(&splits.classes, &model.labels)?),
        ..EvaluateOptions::default()
    };
    let mut classifier = classifier(&model, &runtime).map_err(blame)?;
    let classes = model.labels.len();
    let result =
        evaluate(classifier.as_mut(), &dataset, &model.preprocessing, classes, &options).map_err(blame)?;
    for skipped in &splits.skipped {
        eprintln!("left out {}: {}", skipped.path.display(), skipped.reason);
    }
    let text = if args.json {
        let skipped = splits.skipped.len();
        json(&result, &model.labels, &splits.name, part, skipped, &runtime)
    } else {
        describe(&result, &model.labels, &splits.name, part)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The part that was asked for, with its name.
fn choose(splits: &Splits, part: Option<Part>) -> Result<(&'static str, Arc<Dataset>), Fault> {
    let val = (!splits.val.is_empty()).then_some(&splits.val);
    let test = splits.test.as_ref();
    let chosen = match part {
        Some(Part::Train) => ("training", Some(&splits.train)),
        Some(Part::Val) => ("validation", val),
        Some(Part::Test) => ("test", test),
        None if test.is_some() => ("test", test),
        None if val.is_some() => ("validation", val),
        None => ("all", Some(&splits.train)),
    };
    match chosen {
        (name, Some(dataset)) => Ok((name, Arc::clone(dataset))),
        (name, None) => Err(Fault::Input(format!("{}: has no {name} images of its own", splits.name))),
    }
}

/// The model's number of each class of the data, by name. Classes that are only numbered are taken by their number.
fn label_map(data: &[String], model: &[String]) -> Result<Vec<usize>, Fault> {
    let find = |name: &String| model.iter().position(|label| label == name);
    if let Some(map) = data.iter().map(find).collect() {
        return Ok(map);
    }
    let numbered = data.iter().enumerate().all(|(i, name)| *name == i.to_string());
    if numbered && data.len() <= model.len() {
        return Ok((0..data.len()).collect());
    }
    let unknown: Vec<&str> = data.iter().filter(|name| find(name).is_none()).map(String::as_str).collect();
    let text =
        format!("classes: expected those of the model ({}), got {}", model.join(", "), unknown.join(", "));
    Err(Fault::Input(text))
}

fn describe(result: &Evaluation, labels: &[String], data: &str, part: &str) -> String {
    let mut text = format!(
        "{data}, {part} images: {}\ntop-1 {:.2} %, top-5 {:.2} %, cross entropy {:.4}\n\n",
        grouped(result.images as u64),
        100.0 * result.top1,
        100.0 * result.top5,
        result.loss
    );
    let mut table = Table::new(&["<class", ">images", ">recall", ">precision"]);
    let percent = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
    for (label, score) in labels.iter().zip(result.classes()) {
        let cells =
            [label.clone(), score.images.to_string(), percent(score.recall), percent(score.precision)];
        table.row(cells);
    }
    text += &table.draw();
    text.push('\n');
    text += &if labels.len() <= MATRIX_CLASSES {
        matrix(&result.confusion, labels)
    } else {
        confusions(&result.confusion, labels)
    };
    text
}

/// One row a class, one column an answer, which is given by its number.
fn matrix(confusion: &[Vec<u64>], labels: &[String]) -> String {
    let numbers: Vec<String> = (0..labels.len()).map(|class| format!(">{class}")).collect();
    let head: Vec<&str> =
        [">", "<class \\ answer"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    let mut table = Table::new(&head);
    for (class, (label, row)) in labels.iter().zip(confusion).enumerate() {
        let counts = row.iter().map(|n| if *n == 0 { "·".into() } else { n.to_string() });
        table.row([class.to_string(), label.clone()].into_iter().chain(counts));
    }
    table.draw()
}

/// The most frequent confusions of a matrix that is too large to print; `--json` holds all of it.
fn confusions(confusion: &[Vec<u64>], labels: &[String]) -> String {
    let mut all: Vec<(u64, usize, usize)> = Vec::new();
    for (truth, row) in confusion.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|(answer, n)| *answer != truth && **n > 0);
        all.extend(wrong.map(|(answer, n)| (*n, truth, answer)));
    }
    // The most frequent first, equal ones in the order of classes.
    all.sort_by_key(|(n, truth, answer)| (std::cmp::Reverse(*n), *truth, *answer));
    let mut table = Table::new(&["<class", "<taken for", ">images"]);
    for (n, truth, answer) in all.iter().take(LISTED) {
        table.row([labels[*truth].clone(), labels[*answer].clone(), n.to_string()]);
    }
    table.draw()
}

fn json(
    result: &Evaluation,
    labels: &[String],
    data: &str,
    part: &str,
    skipped: usize,
    runtime: &Runtime,
) -> String {
    let classes: Vec<_> = labels
        .iter()
        .zip(result.classes())
        .map(|(label, score)| serde_json::json!({ "class": label, "score": score }))
        .collect();
    let value = serde_json::json!({
        "data": data,
        "part": part,
        "device": runtime.device.to_string(),
        "experts": format!("{:?}", runtime.engine.experts).to_lowercase(),
        "precision": format!("{:?}", runtime.engine.precision).to_lowercase(),
        "images": result.images,
        "skipped": skipped + result.skipped,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "classes": classes,
        "confusion": result.confusion,
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn classes_are_matched_by_name_or_by_number() {
        let model = names(&["bag", "boot", "coat"]);
        assert_eq!(label_map(&names(&["coat", "bag"]), &model).unwrap(), [2, 0]);
        assert_eq!(label_map(&names(&["0", "1", "2"]), &model).unwrap(), [0, 1, 2]);
        assert!(label_map(&names(&["0", "1", "2", "3"]), &model).is_err());
        let text = label_map(&names(&["bag", "shirt"]), &model).unwrap_err().to_string();
        assert_eq!(text, "classes: expected those of the model (bag, boot, coat), got shirt");
    }

    #[test]
    fn the_most_frequent_confusions_come_first() {
        let labels = names(&["a", "b", "c"]);
        let confusion = [vec![5, 1, 0], vec![4, 0, 1], vec![0, 0, 9]];
        let text = confusions(&confusion, &labels);
        let rows = text.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(rows.collect::<Vec<_>>(), [["b", "a", "4"], ["a", "b", "1"], ["b", "c", "1"]]);
    }
}
