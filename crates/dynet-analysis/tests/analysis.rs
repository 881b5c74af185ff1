//! What the analysis says of feature maps and coefficients that are known, and a page opened in a browser.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{MadeUp, analysis, layers, model};
use dynet_analysis::{Collapse, Collector, Options, Report, Written};
use dynet_net::Weights;

#[test]
fn planted_channels_and_a_collapsed_predictor_are_found() {
    let model = model(true);
    let all = layers(&model, &Options::default(), 20, 5, 0.0);
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
    assert!(all[2].expert_cosine.as_ref().unwrap().mean_abs < 0.5, "experts are drawn apart");
}

#[test]
fn the_split_into_batches_does_not_matter() {
    let model = model(true);
    let options = Options { positions: 100, ..Default::default() };
    let whole = layers(&model, &options, 12, 12, 0.4);
    for batch in [1, 5] {
        for (a, b) in layers(&model, &options, 12, batch, 0.4).iter().zip(&whole) {
            let pairs = a.maps.r.iter().zip(&b.maps.r);
            let most = pairs.map(|(x, y)| (x - y).abs()).filter(|d| d.is_finite()).fold(0.0, f32::max);
            assert!(most < 1e-6, "{} in batches of {batch}: {most}", a.name);
            assert_eq!((a.maps.stats.pairs, &a.coefficients), (b.maps.stats.pairs, &b.coefficients));
        }
    }
}

#[test]
fn sampled_positions_come_near_to_all() {
    let model = model(false);
    let exact = layers(&model, &Options::default(), 10, 10, 0.5);
    let sampled = layers(&model, &Options { positions: 200, ..Default::default() }, 10, 10, 0.5);
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
    let mut collector = Collector::new(&model.net, &Options::default()).unwrap();
    let taps = MadeUp::new(&model.net, &collector.nodes(), 0..2, 0.0);
    let text = collector.add(&taps, &[0, 1, 2]).unwrap_err().to_string();
    assert!(text.contains("for 3 images, got"), "{text}");
    let none = Collector::new(&model.net, &Options::default()).unwrap();
    assert!(none.finish(&model.weights).unwrap_err().to_string().contains("got none"));
    let mut collector = Collector::new(&model.net, &Options::default()).unwrap();
    collector.add(&taps, &[0, 1]).unwrap();
    assert!(collector.finish(&Weights::new()).unwrap_err().to_string().contains("missing"));
}

fn two_models() -> Report {
    let models = vec![
        analysis("dynamic <script>alert(1)</script>", true, 60, 0.1),
        analysis("static twin", false, 60, 0.6),
    ];
    let classes = model(true).labels;
    Report::new("made-up \"images\"", classes, Options::default(), models)
}

fn artefacts(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn the_report_says_the_finding_and_writes_every_number() {
    let report = two_models();
    let finding = report.finding();
    assert!(finding.contains("less correlated than those of static twin"), "{finding}");
    let folder = tempfile::tempdir().unwrap();
    let written = report.write(&folder.path().join("r.html")).unwrap();
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
    let pictures = fs::read_dir(written.files.join("figures")).unwrap().count();
    assert_eq!(pictures, 2 * written.figures);
    assert!(written.figures > 200, "{}", written.figures);
}

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// Headless Chromium with a profile of its own; `None` where there is no such program.
fn browser(arguments: &[String]) -> Option<(String, String)> {
    let profile = tempfile::tempdir().unwrap();
    for name in BROWSERS {
        let output = Command::new(name)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--virtual-time-budget=4000",
            ])
            .args(["--enable-logging=stderr", "--v=0", "--run-all-compositor-stages-before-draw"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .output();
        if let Ok(output) = output {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Some((text(&output.stdout), text(&output.stderr)));
        }
    }
    None
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
    let folder = artefacts("report-page");
    let Written { page, .. } = two_models().write(&folder.join("report.html")).unwrap();
    let visited = folder.join("visited.html");
    let html = fs::read_to_string(&page).unwrap();
    fs::write(&visited, html.replace("</body>", VISITOR)).unwrap();
    let url = |page: &Path, fragment: &str| format!("file://{}{fragment}", page.display());
    let Some((dom, log)) = browser(&["--dump-dom".into(), "--window-size=390,844".into(), url(&visited, "")])
    else {
        println!("skipped: none of {BROWSERS:?} is installed");
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
        browser(&[arguments, vec![url(&page, "")]].concat());
        assert!(fs::metadata(&picture).is_ok_and(|m| m.len() > 10_000), "{name}: no screenshot");
    }
    println!("screenshots: {}", folder.display());
}
