//! What the analysis says of feature maps and coefficients that are known, and a page opened in a browser.

#![expect(clippy::unwrap_used, reason = "a test fails that way")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use common::{analysis, layers, model, noise, output};
use dynet_analysis::{Collapse, Collector, ModelAnalysis, Options, Report, Subject, Written, analyze};
use dynet_data::{BatchOptions, Dataset, Image};
use dynet_net::{Channels, Model, Weights};

#[test]
fn planted_channels_and_a_collapsed_predictor_are_found() {
    let model = model(true);
    let all = layers(&model, &Options::default(), 20, 0.0);
    assert_eq!(all.len(), 20);
    for l in &all {
        let n = l.shape.c;
        assert!((l.maps.r[1] - 1.0).abs() < 1e-6 && (l.maps.r[2] + 1.0).abs() < 1e-6, "{}", l.name);
        assert!(l.maps.r[3].is_nan() && l.maps.stats.constant == 1, "{}", l.name);
        assert!(l.maps.r[n - 1].abs() < 0.3, "{}", l.name);
        assert_eq!(l.alike[0].maps[0].len(), l.shape.pixels());
    }
    let collapsed: Vec<_> = all.iter().filter_map(|l| l.coefficients.as_ref()).map(|c| c.collapsed).collect();
    assert_eq!(collapsed.len(), 19);
    assert_eq!(collapsed.iter().filter(|c| c.is_some()).count(), 1);
    assert_eq!(collapsed[0], Some(Collapse::Uniform));
    // The coefficients of the others follow the class, of which there are ten.
    let alive = all[2].coefficients.as_ref().unwrap();
    assert!(alive.between_classes.unwrap() > 0.99, "{:?}", alive.between_classes);
    assert!(all[2].expert_cosine.as_ref().unwrap().stats.mean_abs < 0.5, "experts are drawn apart");
}

/// A small set of images, one class in turn after the other.
fn images(count: usize) -> Arc<Dataset> {
    let image = |i: usize| {
        let pixel = |p: usize| (255.0 * (0.5 + noise([p / 3, i % 10, i]))) as u8;
        let pixels = (0..28 * 28).map(pixel).collect();
        (Image { width: 28, height: 28, channels: Channels::Gray, pixels }, i % 10)
    };
    Arc::new(Dataset::from_images((0..count).map(image), "made up").unwrap())
}

fn run(model: &Model, batch: usize, count: usize) -> ModelAnalysis {
    let batches = dynet_data::batches(
        &images(count),
        &BatchOptions {
            batch,
            epoch: 0,
            seed: 0,
            shuffle: false,
            drop_last: false,
            start: 0,
            augment: None,
            preprocessing: model.preprocessing.clone(),
            workers: 0,
            ahead: 1,
            skip_bad: false,
        },
    );
    let subject = Subject { label: "net", origin: "made up", model };
    analyze(subject, batches, 23, 2, &Options::default(), |_| {}).unwrap()
}

#[test]
fn the_split_into_batches_does_not_matter() {
    for dynamic in [false, true] {
        let model = model(dynamic);
        let whole = run(&model, 23, 30);
        assert_eq!(whole.images, 23);
        for batch in [1, 4] {
            for (a, b) in run(&model, batch, 30).layers.iter().zip(&whole.layers) {
                let pairs = a.maps.r.iter().zip(&b.maps.r);
                let most = pairs.map(|(x, y)| (x - y).abs()).filter(|d| d.is_finite()).fold(0.0, f32::max);
                assert!(most < 1e-6, "{} in batches of {batch}: {most}", a.name);
                assert_eq!((a.maps.stats.pairs, &a.coefficients), (b.maps.stats.pairs, &b.coefficients));
            }
        }
    }
}

#[test]
fn the_engines_maps_are_those_of_the_net() {
    let model = model(true);
    let whole = run(&model, 8, 23);
    assert_eq!(whole.layers.len(), 20);
    for l in &whole.layers {
        assert_eq!(l.pixels, (23 * l.shape.pixels()) as u64, "{}", l.name);
        assert!(l.maps.stats.pairs > 0 && l.maps.stats.mean_abs > 0.0, "{}", l.name);
        // Coefficients of softmax: their mean over the kernels is 1 / K.
        let Some(c) = &l.coefficients else { continue };
        assert!((c.mean.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{}: {:?}", l.name, c.mean);
    }
}

#[test]
fn sampled_positions_come_near_to_all() {
    let model = model(false);
    let exact = layers(&model, &Options::default(), 10, 0.5);
    let sampled = layers(&model, &Options { positions: 200, ..Default::default() }, 10, 0.5);
    assert_eq!((exact[0].pixels, sampled[0].pixels), (7840, 2000));
    // The error of r over 2,000 rows is about 1 / sqrt(2000) = 0.022.
    assert!((exact[0].maps.r[6 * 8 + 7] - sampled[0].maps.r[6 * 8 + 7]).abs() < 0.1);
}

#[test]
fn bad_input_is_an_error_that_says_what() {
    let model = model(false);
    let options = Options { positions: 0, ..Default::default() };
    let text = Collector::new(&model.net, &options).err().unwrap().to_string();
    assert_eq!(text, "positions: expected at least 1, got 0");
    let collector = || Collector::new(&model.net, &Options::default()).unwrap();
    let node = collector().nodes()[0];
    let text = collector().look(0, node, &[0.0; 5]).unwrap_err().to_string();
    assert!(text.ends_with("expected 6272 values, got 5"), "{text}");
    assert!(collector().finish(&model.weights, &[]).unwrap_err().to_string().contains("got none"));
    let mut filled = collector();
    filled.look(0, node, &output(&model.net, node, 0, 0.0)).unwrap();
    assert!(filled.finish(&Weights::new(), &[0]).unwrap_err().to_string().contains("missing"));
    let mut infinite = collector();
    for node in infinite.nodes() {
        let len = model.net.node(node).shape.len();
        infinite.look(0, node, &vec![f32::INFINITY; len]).unwrap();
    }
    let text = infinite.finish(&model.weights, &[0]).unwrap_err().to_string();
    assert!(text.contains("finite"), "{text}");
}

fn two_models() -> Report {
    let models = vec![
        analysis("dynamic <script>alert(1)</script>", true, 60, 0.1),
        analysis("static twin", false, 60, 0.6),
    ];
    let classes = model(true).labels;
    Report::new("made-up \"images\"", classes, Options::default(), models)
}

#[test]
fn one_layer_does_not_make_a_net_less_correlated() {
    let mut models = vec![analysis("one", true, 20, 0.1), analysis("other", false, 20, 0.1)];
    for (i, [r, other]) in [[0.1, 0.9], [0.3, 0.2], [0.3, 0.2]].into_iter().enumerate() {
        models[0].layers[i].maps.stats.mean_abs = r;
        models[1].layers[i].maps.stats.mean_abs = other;
    }
    models.iter_mut().for_each(|m| m.layers.truncate(3));
    let report = Report::new("made-up", model(true).labels, Options::default(), models);
    let finding = report.finding();
    assert!(finding.contains("about as correlated as"), "{finding}");
    assert!(finding.contains("lower in 1 of the 3 layers"), "{finding}");
}

/// The report of the two, written once for all tests, where its screenshots stay.
fn written() -> &'static (Report, Written) {
    static WRITTEN: OnceLock<(Report, Written)> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report-page");
        // Nothing of an earlier version may stand in for what is missing.
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        let report = two_models();
        let written = report.write(&folder.join("report.html")).unwrap();
        (report, written)
    })
}

#[test]
fn the_report_says_the_finding_and_writes_every_number() {
    let (report, written) = written();
    let finding = report.finding();
    assert!(finding.contains("less correlated than those of static twin"), "{finding}");
    let page = fs::read_to_string(&written.page).unwrap();
    assert!(!page.contains("<script>alert"), "labels are escaped");
    for outside in ["http://", "https://", "src=\"/", "url("] {
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
        assert!(!found, "the page needs nothing from elsewhere: {outside}");
    }
    for name in ["layers", "histograms", "coefficients", "images", "cka"] {
        let text = fs::read_to_string(written.files.join(format!("{name}.csv"))).unwrap();
        let columns =
            |line: &str| line.split('"').step_by(2).map(|part| part.matches(',').count()).sum::<usize>();
        assert!(text.lines().count() > 19, "{name}");
        assert!(text.lines().all(|l| columns(l) == columns(text.lines().next().unwrap())), "{name}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(written.files.join("report.json")).unwrap()).unwrap();
    assert_eq!(json["models"][0]["totals"]["collapsed"], 1);
    assert_eq!(json["models"][0]["layers"].as_array().unwrap().len(), 20);
    let matrix = |name: &str| fs::read_to_string(written.files.join("matrices").join(name)).unwrap();
    let layer = &report.models[0].layers[1];
    let stem = format!("002-{}-1", layer.name);
    for (what, c) in [("maps", &layer.maps), ("kernels", &layer.kernels)] {
        let text = matrix(&format!("{stem}-{what}.csv"));
        let read = text.lines().flat_map(|l| l.split(',')).map(|v| v.parse().unwrap_or(f32::NAN));
        assert!(read.zip(&c.r).all(|(a, b)| (a - b).abs() < 1e-6 || a.is_nan() && b.is_nan()), "{what}");
        assert_eq!(text.lines().count(), layer.shape.c, "{what}");
    }
    assert_eq!(matrix(&format!("{stem}-experts.csv")).lines().count(), 4);
    let json: serde_json::Value = serde_json::from_str(&matrix(&format!("{stem}.json"))).unwrap();
    assert_eq!((json["maps_r"][0][2].as_f64(), json["maps_r"][3][0].as_f64()), (Some(-1.0), None));
    let pictures = fs::read_dir(written.files.join("figures")).unwrap().count();
    assert_eq!(pictures, 2 * written.figures);
    assert!(written.figures > 200, "{}", written.figures);
}

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// Seconds after which a browser is ended, with all its processes: first, and once more where the machine was busy. It
/// needs three.
const PATIENCE: [&str; 2] = ["20", "60"];

/// What a browser wrote to its two outputs.
struct Visit {
    dom: String,
    log: String,
}

/// Headless Chromium with a profile of its own; `None` where there is none.
///
/// # Panics
/// If it is there and does not come to an end.
fn browser(arguments: &[String]) -> Option<Visit> {
    let name = BROWSERS.into_iter().find(|name| is_installed(name))?;
    let place = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| place.path().join(name));
    for patience in PATIENCE {
        // Files, not pipes: a helper process that outlives the browser would keep a pipe open.
        let status = Command::new("timeout")
            .args(["-k", "1", patience, name, "--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-extensions", "--hide-scrollbars"])
            .args(["--virtual-time-budget=4000", "--enable-logging=stderr", "--v=0"])
            .arg(format!("--user-data-dir={}", place.path().join(format!("profile-{patience}")).display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        match status.code() {
            // `timeout` says so where it had to end one.
            Some(124 | 137) | None => eprintln!("{name} did not end within {patience} s"),
            _ => return Some(Visit { dom: text(&out), log: text(&err) }),
        }
    }
    panic!("{name} did not end");
}

/// Whether `timeout` finds a program: it ends with 126 or 127 where it does not.
fn is_installed(name: &str) -> bool {
    let status = Command::new("timeout")
        .args(["60", name, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| !matches!(s.code(), Some(126 | 127)))
}

/// What the browser does with a copy of the page: it clicks a layer, counts, and leaves what it saw on the root element.
const VISITOR: &str = "<script>
window.addEventListener('error', e => document.documentElement.dataset.failed = e.message);
const layer = document.querySelector('#layer-1');
const before = layer.open;
layer.querySelector('summary').click();
const seen = layer.open && !before && layer.querySelector('svg').getBoundingClientRect().height > 50;
const link = document.querySelector('#by-layer a');
link.click();
setTimeout(() => {
  const d = document.documentElement.dataset;
  d.clicked = seen;
  d.linked = document.querySelector('#layer-0').open;
  d.figures = document.querySelectorAll('svg').length;
  d.pictures = [...document.querySelectorAll('svg image')].length;
  d.wide = document.documentElement.scrollWidth <= innerWidth;
}, 300);
</script></body>";

#[test]
fn the_page_works_in_a_browser() {
    let page = &written().1.page;
    let folder = page.parent().unwrap();
    let visited = folder.join("visited.html");
    let html = fs::read_to_string(page).unwrap();
    fs::write(&visited, html.replace("</body>", VISITOR)).unwrap();
    let url = |page: &Path, fragment: &str| format!("file://{}{fragment}", page.display());
    let visit = browser(&["--dump-dom".into(), "--window-size=390,844".into(), url(&visited, "")]);
    let Some(Visit { dom, log }) = visit else {
        eprintln!("skipped: the page in a browser: none of {BROWSERS:?} is installed");
        return;
    };
    let root = &dom[dom.find("<html").unwrap_or(0)..].split('>').next().unwrap().to_owned();
    for expected in ["data-clicked=\"true\"", "data-linked=\"true\"", "data-wide=\"true\""] {
        assert!(root.contains(expected), "{expected} not in {root}\n{log}");
    }
    assert!(!root.contains("data-failed"), "{root}");
    let count = |name: &str| -> usize {
        let rest = root.split(&format!("data-{name}=\"")).nth(1).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    assert!(count("figures") > 200 && count("pictures") > 100, "{root}");
    let console: Vec<&str> = log.lines().filter(|l| l.contains(":CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    for (name, size, extra) in
        [("light", "1200,3600", ""), ("dark", "1200,3600", "--force-dark-mode"), ("phone", "390,3600", "")]
    {
        let picture = folder.join(format!("{name}.png"));
        let mut arguments =
            vec![format!("--screenshot={}", picture.display()), format!("--window-size={size}")];
        arguments.extend((!extra.is_empty()).then(|| extra.to_owned()));
        arguments.push(url(page, ""));
        browser(&arguments);
        assert!(fs::metadata(&picture).is_ok_and(|m| m.len() > 10_000), "{name}: no screenshot");
    }
    eprintln!("screenshots: {}", folder.display());
}
