"""Tables (Markdown, on the standard output) and figures (SVG) of the study that `study.sh` ran.

    python bench/study.py OUT FIGURES

OUT is the folder of the runs; FIGURES gets one SVG a net and quantity. Only pairs of runs that are finished count.
"""
import json
import sys
from pathlib import Path
from statistics import mean, stdev

# The second-last stage, that of the paper's figure: the last but one number of channels.
STAGE = {"resnet18": "layer3.", "mobilenet_v2": ("features.14.", "features.15.", "features.16.")}
KINDS = ("dynamic", "static")
COLOURS = {"dynamic": "#0072b2", "static": "#d55e00"}


def pairs(out, net):
    """Seed -> (summaries, analyses), each dynamic and static."""
    found = {}
    for page in sorted(out.glob(f"{net}-seed-*_files/report.json")):
        name = page.parent.name.removesuffix("_files")
        summaries = [json.loads((out / run / "summary.json").read_text()) for run in (name, f"{name}-twin")]
        found[int(name.rsplit("-", 1)[1])] = (summaries, json.loads(page.read_text())["models"])
    return found


def spread(values, digits=3):
    return f"{mean(values):.{digits}f}" + (f" ({stdev(values):.{digits}f})" if len(values) > 1 else "")


def layers(models):
    return [[layer for layer in m["layers"] if layer["maps"]["pairs"]] for m in models]


def rank(layer):
    s = layer["maps"]
    return s["effective_rank"] / max(1, s["channels"] - s["constant"])


TOTALS = [
    ("mean \\|r\\| of feature maps", lambda ls: mean(x["maps"]["mean_abs"] for x in ls), 3, 1),
    ("strong pairs (%)", lambda ls: mean(x["maps"]["bands"][0] for x in ls), 1, 100),
    ("middle (%)", lambda ls: mean(x["maps"]["bands"][1] for x in ls), 1, 100),
    ("weak (%)", lambda ls: mean(x["maps"]["bands"][2] for x in ls), 1, 100),
    ("none (%)", lambda ls: mean(x["maps"]["bands"][3] for x in ls), 1, 100),
    ("r in [-0.1, 0.2] (%)", lambda ls: mean(x["maps"]["near_zero"] for x in ls), 1, 100),
    ("effective rank (% of channels)", lambda ls: mean(rank(x) for x in ls), 1, 100),
    ("mean \\|cos\\| of kernels", lambda ls: mean(x["kernels"]["mean_abs"] for x in ls if x["kernels"]["pairs"]), 3, 1),
]
CURVES = [
    ("mean-r", "mean |r| of feature maps", lambda x: x["maps"]["mean_abs"]),
    ("near-zero", "share of r in [-0.1, 0.2] (%)", lambda x: 100 * x["maps"]["near_zero"]),
    ("effective-rank", "effective rank (% of channels)", lambda x: 100 * rank(x)),
]


def tables(net, found):
    print(f"\n## {net}\n")
    print("| seed | dynamic, test top-1 (%) | static twin, test top-1 (%) | difference | mean \\|r\\|, dynamic | static |")
    print("|---|---|---|---|---|---|")
    top, totals = [], {k: [] for k in KINDS}
    for seed, (summaries, models) in found.items():
        a, b = (100 * s["test_top1"] for s in summaries)
        top.append((a, b))
        for kind, own in zip(KINDS, layers(models)):
            totals[kind].append(own)
        r = [TOTALS[0][1](totals[k][-1]) for k in KINDS]
        print(f"| {seed} | {a:.2f} | {b:.2f} | {a - b:+.2f} | {r[0]:.3f} | {r[1]:.3f} |")
    print("\nMeans over the layers, then over the seeds (standard deviation over the seeds):\n")
    print("| | dynamic | static twin |\n|---|---|---|")
    print(f"| test top-1 (%) | {spread([t[0] for t in top], 2)} | {spread([t[1] for t in top], 2)} |")
    for name, value, digits, scale in TOTALS:
        cells = [spread([scale * value(own) for own in totals[k]], digits) for k in KINDS]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
    stage = [[x for x in own if x["name"].startswith(STAGE[net])] for k in KINDS for own in totals[k]]
    half = len(stage) // 2
    for name, value, digits, scale in (TOTALS[0], TOTALS[5]):
        cells = [spread([scale * value(own) for own in part], digits) for part in (stage[:half], stage[half:])]
        print(f"| second-last stage: {name} | {cells[0]} | {cells[1]} |")
    experts = [[x["expert_cosine"]["stats"] for x in own if x["expert_cosine"]] for own in totals["dynamic"]]
    cells = spread([mean(e["mean_abs"] for e in one) for one in experts])
    print(f"| experts of a channel: mean \\|cos\\| | {cells} | - |")
    cells = spread([mean(e["effective_rank"] for e in one) for one in experts], 2)
    print(f"| experts of a channel: effective rank, of K = {experts[0][0]['channels']} | {cells} | - |")
    ended = [sum(bool((x["coefficients"] or {}).get("collapsed")) for x in own) for own in totals["dynamic"]]
    print(f"| collapsed predictors, by seed | {', '.join(map(str, ended))} | - |")
    print("\nBy layer, mean over the seeds, dynamic / static:\n")
    print("| layer | mean \\|r\\| | strong (%) | middle (%) | weak (%) | none (%) | r in [-0.1, 0.2] (%) | eff. rank (%) | experts \\|cos\\| |")
    print("|---|---|---|---|---|---|---|---|---|")
    names = [x["name"] for x in totals["dynamic"][0]]
    for name in names:
        own = {k: [x for run in totals[k] for x in run if x["name"] == name] for k in KINDS}

        def both(value, digits):
            return " / ".join(f"{mean(map(value, own[k])):.{digits}f}" if own[k] else "-" for k in KINDS)

        cells = [both(lambda x: x["maps"]["mean_abs"], 3)]
        cells += [both(lambda x, b=b: 100 * x["maps"]["bands"][b], 1) for b in range(4)]
        cells += [both(lambda x: 100 * x["maps"]["near_zero"], 1), both(lambda x: 100 * rank(x), 1)]
        e = [x["expert_cosine"]["stats"]["mean_abs"] for x in own["dynamic"] if x["expert_cosine"]]
        cells.append(f"{mean(e):.3f}" if e else "-")
        print(f"| {name} | " + " | ".join(cells) + " |")
    return totals, stage


def chart(title, x_name, y_name, curves, x_ticks, low, high):
    """Lines with bars from the least to the greatest seed."""
    left, top, width, height = 60, 40, 660, 230
    # Five lines at round values, the highest one at or above the curves.
    step = next(s * 10**e for e in range(-4, 3) for s in (1, 2, 2.5, 5) if 4 * s * 10**e >= high - low)
    high = low + 4 * step
    x0, x1 = x_ticks[0], x_ticks[-1]
    at = lambda x, y: (left + width * (x - x0) / max(x1 - x0, 1e-9), top + height * (1 - (y - low) / max(high - low, 1e-9)))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 320" font-family="sans-serif" font-size="12">',
           f'<title>{title}</title><rect width="740" height="320" fill="#fff"/>']
    for i in range(5):
        y = low + (high - low) * i / 4
        out.append(f'<path d="M{left} {at(x0, y)[1]:.1f}H{left + width}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{at(x0, y)[1] + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x in x_ticks:
        out.append(f'<text x="{at(x, low)[0]:.1f}" y="{top + height + 16}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{x_name}</text>')
    out.append(f'<text transform="translate(14 {top + height / 2}) rotate(-90)" text-anchor="middle">{y_name}</text>')
    for n, (kind, points) in enumerate(curves.items()):
        colour, dash = COLOURS[kind], ' stroke-dasharray="5 3"' if n else ""
        line = " ".join(f"{at(x, mean(v))[0]:.1f},{at(x, mean(v))[1]:.1f}" for x, v in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        for x, v in points:
            (px, a), (_, b) = at(x, min(v)), at(x, max(v))
            out.append(f'<path d="M{px:.1f} {a:.1f}V{b:.1f}" stroke="{colour}"/>')
        out.append(f'<path d="M{left + 150 * n} 22h24" stroke="{colour}" stroke-width="3"{dash}/>'
                   f'<text x="{left + 30 + 150 * n}" y="26">{kind}</text>')
    return "\n".join(out) + "\n</svg>\n"


def figures(net, totals, stage, folder):
    folder.mkdir(parents=True, exist_ok=True)
    names = [x["name"] for x in totals["dynamic"][0]]
    place = {name: i + 1 for i, name in enumerate(names)}
    step = max(1, len(names) // 20)
    # The last layer has a label, and no other one so near that they touch.
    ticks = [*range(1, len(names) - step + 1, step), len(names)]
    for file, title, value in CURVES:
        curves = {}
        for kind in KINDS:
            by = {}
            for run in totals[kind]:
                for x in run:
                    by.setdefault(place.get(x["name"]), []).append(value(x))
            by.pop(None, None)
            curves[kind] = sorted(by.items())
        high = max(max(v) for c in curves.values() for _, v in c)
        svg = chart(f"{net}: {title}", "layer, in the order in which they run", title, curves, ticks, 0, high)
        (folder / f"{net}-{file}.svg").write_text(svg)
    half, curves = len(stage) // 2, {}
    for kind, part in zip(KINDS, (stage[:half], stage[half:])):
        rows = []
        for run in part:
            counts = [sum(c) for c in zip(*(x["maps"]["histogram"] for x in run))]
            rows.append([100 * c / max(1, sum(counts)) for c in counts])
        bins = len(rows[0])
        curves[kind] = [(-1 + (2 * i + 1) / bins, [row[i] for row in rows]) for i in range(bins)]
    high = max(max(v) for c in curves.values() for _, v in c)
    ticks = [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]
    svg = chart(f"{net}: r in the second-last stage", "r of two feature maps", "pairs (%)", curves, ticks, 0, high)
    (folder / f"{net}-histogram.svg").write_text(svg)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python bench/study.py OUT FIGURES")
    out, folder = map(Path, sys.argv[1:])
    for net in STAGE:
        if found := pairs(out, net):
            totals, stage = tables(net, found)
            figures(net, totals, stage, folder)


main()
