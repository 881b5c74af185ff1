//! `dynet predict`: what a model sees in images.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dynet_data::{DecodeLimits, decode_file, image_files, preprocess};
use dynet_net::Model;
use dynet_train::{Classifier, DeviceName, classifier, top_k};

use crate::classifier::read_model;
use crate::engine_args::EngineArgs;
use crate::fault::{Fault, Outcome, blame, print};
use crate::table::Table;

/// Images that are decoded and classified together: enough to keep the threads busy, few enough for any memory.
const BATCH: usize = 32;

/// Arguments of `dynet predict`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model file, or the folder of a run for its best model.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Images (JPEG or PNG), or folders of them.
    #[arg(value_name = "IMAGE|FOLDER", required = true)]
    images: Vec<PathBuf>,
    /// Classes to tell of each image, the likeliest ones.
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Print comma-separated values: path, rank, class, probability.
    #[arg(long, conflicts_with = "jsonl")]
    csv: bool,
    /// Print one JSON object an image.
    #[arg(long)]
    jsonl: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What was found in an image, or why nothing was.
struct Answer {
    path: PathBuf,
    result: Result<Vec<(String, f32)>, String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let runtime = args.engine.runtime(DeviceName::default())?;
    let model = read_model(&args.model)?;
    let mut classifier = classifier(&model, &runtime).map_err(blame)?;
    let mut table = Table::new(&["<image", "<class", ">probability", "<then"]);
    if args.csv {
        print("path,rank,class,probability\n")?;
    }
    let (mut bad, mut all) = (0, 0);
    for found in list(&args.images).chunks(BATCH) {
        for answer in classify(classifier.as_mut(), &model, found, args.top.into())? {
            all += 1;
            if let Err(problem) = &answer.result {
                bad += 1;
                eprintln!("error: {problem}");
            }
            if args.csv {
                print(&csv(&answer))?;
            } else if args.jsonl {
                print(&format!("{}\n", json(&answer)))?;
            } else {
                table.row(row(&answer));
            }
        }
    }
    if !args.csv && !args.jsonl {
        print(&table.draw())?;
    }
    if bad > 0 {
        return Err(Fault::Input(format!("{bad} of {all} images could not be read")));
    }
    Ok(ExitCode::SUCCESS)
}

/// The images that are meant, in order, or why a folder gives none.
fn list(given: &[PathBuf]) -> Vec<Result<PathBuf, (PathBuf, String)>> {
    let mut all = Vec::new();
    for path in given {
        if !path.is_dir() {
            all.push(Ok(path.clone()));
            continue;
        }
        match image_files(path) {
            Ok(files) if files.is_empty() => {
                let text = format!(
                    "{}: expected .jpg, .jpeg or .png files in the folder, found none",
                    path.display()
                );
                all.push(Err((path.clone(), text)));
            }
            Ok(files) => all.extend(files.into_iter().map(Ok)),
            Err(e) => all.push(Err((path.clone(), e.to_string()))),
        }
    }
    all
}

/// Answers for some images, in order.
fn classify(
    classifier: &mut dyn Classifier,
    model: &Model,
    found: &[Result<PathBuf, (PathBuf, String)>],
    k: usize,
) -> Result<Vec<Answer>, Fault> {
    let (mut answers, mut pixels, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for item in found {
        let (path, problem) = match item {
            Err((path, problem)) => (path, Some(problem.clone())),
            Ok(path) => match decode_file(path, &DecodeLimits::default()) {
                Ok(image) => {
                    pixels.extend(preprocess(&image, &model.preprocessing));
                    places.push(answers.len());
                    (path, None)
                }
                Err(e) => (path, Some(e.to_string())),
            },
        };
        answers.push(Answer { path: path.clone(), result: problem.map_or(Ok(Vec::new()), Err) });
    }
    if places.is_empty() {
        return Ok(answers);
    }
    let shape = model.net.input();
    let logits = classifier.logits(&pixels, [places.len(), shape.c, shape.h, shape.w]).map_err(blame)?;
    for (place, row) in places.into_iter().zip(logits.chunks_exact(model.labels.len())) {
        let best = top_k(row, k).into_iter();
        answers[place].result = Ok(best.map(|(class, p)| (model.labels[class].clone(), p)).collect());
    }
    Ok(answers)
}

fn row(answer: &Answer) -> [String; 4] {
    let path = answer.path.display().to_string();
    let percent = |p: f32| format!("{:.1} %", 100.0 * p);
    match &answer.result {
        Err(_) => [path, "cannot be read".into(), String::new(), String::new()],
        Ok(best) => {
            let (class, p) = best.first().map_or((String::new(), 0.0), Clone::clone);
            let then: Vec<String> =
                best.iter().skip(1).map(|(class, p)| format!("{class} {}", percent(*p))).collect();
            [path, class, percent(p), then.join(", ")]
        }
    }
}

/// One line a class; none for an image that could not be read.
fn csv(answer: &Answer) -> String {
    let path = quoted(&answer.path.display().to_string());
    let best = answer.result.iter().flatten().enumerate();
    best.map(|(i, (class, p))| format!("{path},{},{},{p}\n", i + 1, quoted(class))).collect()
}

/// A cell in quotation marks where its text could be taken for the end of it (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn json(answer: &Answer) -> serde_json::Value {
    let path: &Path = &answer.path;
    match &answer.result {
        Err(problem) => serde_json::json!({ "path": path.display().to_string(), "error": problem }),
        Ok(best) => {
            let top: Vec<_> = best
                .iter()
                .map(|(class, p)| serde_json::json!({ "class": class, "probability": p }))
                .collect();
            serde_json::json!({ "path": path.display().to_string(), "top": top })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_hold_commas_or_marks_are_quoted() {
        assert_eq!(quoted("a b"), "a b");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        let result = Ok(vec![("x".to_owned(), 0.75), ("y,z".to_owned(), 0.25)]);
        let answer = Answer { path: "p.png".into(), result };
        assert_eq!(csv(&answer), "p.png,1,x,0.75\np.png,2,\"y,z\",0.25\n");
        assert_eq!(csv(&Answer { result: Err("no".into()), ..answer }), "");
    }
}
