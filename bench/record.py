#!/usr/bin/env python3
"""Measures this engine beside its peers on all nets and writes the record: JSON lines and a Markdown table.

  record.py inference --dynet target/release/dynet --work DIR --out bench/records/DATE-inference [--rounds 3]
  record.py training  --dynet target/release/dynet --out bench/records/DATE-training [--rounds 2]

`inference` first exports every net with peers.py (which takes a while, measures nothing, and is done once a folder), then runs the engines in
turn, each alone in a process of its own, and takes the median over the rounds of each engine's median. Every line of
the record holds the largest absolute error of each engine's logits against PyTorch's and the largest logit.
`training` runs train_peers.py with this engine as one more. With `--only NET` a single net is measured.
"""
import argparse, datetime, json, os, platform, statistics, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(HERE, "peers.py")
NETS = ["mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "shufflenet_v2_x1_0", "resnet18", "resnet50"]
# The paper's nets and the static nets that they replace.
PAPER = [("dy_resnet50", "resnet50"), ("dy_resnet18", "resnet18"), ("dy_mobile", "mobilenet_v2"), ("dy_shuffle_x1_0", "shufflenet_v2_x1_0")]
TRAINING = [("mobilenet_v3_small", 32, 224), ("mobilenet_v3_small", 64, 64), ("mobilenet_v2", 32, 96), ("shufflenet_v2_x1_0", 32, 96),
            ("resnet18", 32, 64), ("resnet50", 16, 64)]


def last_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def cases(nets):
    """Net, experts, batch, form of the exported graph."""
    for net in nets:
        yield net, 0, 1, "fuse"
        yield net, 0, 8, "fuse"
        yield net, 4, 1, "fuse"
        yield net, 4, 8, "fuse"
        yield net, 4, 8, "groups"


def peer(a, net, experts, batch, mode, threads, engine=None):
    command = [sys.executable, PEERS, "--net", net, "--experts", str(experts), "--batch", str(batch), "--mode", mode,
               "--threads", str(threads), "--seconds", str(a.seconds), "--out", os.path.join(a.work, mode)]
    return last_json(command + (["--worker", engine] if engine else ["--rounds", "0"]))


def stem_of(a, net, experts, batch, mode):
    return os.path.join(a.work, mode, net + (f"_k{experts}" if experts else "") + f"_b{batch}")


def exported(a, *case):
    """Exports a net unless that was done before; returns its largest logit."""
    import numpy as np
    stem = stem_of(a, *case)
    if not all(os.path.exists(stem + end) for end in (".onnx", ".safetensors", ".x.npy", ".y.npy")):
        peer(a, *case, 1)
    return float(np.abs(np.load(stem + ".y.npy")).max())


def ours(a, net, batch, threads, *more):
    command = [a.dynet, "bench", net, "--batch", str(batch), "--threads", str(threads), "--json", *more]
    return last_json(command)


def measure(a, net, experts, batch, mode, threads, scale):
    stem = stem_of(a, net, experts, batch, mode)
    files = ["--weights", stem + ".safetensors", "--input", stem + ".x.npy", "--expect", stem + ".y.npy"]
    runs = {e: (lambda e=e: peer(a, net, experts, batch, mode, threads, e)) for e in a.engines.split(",")}
    for storage in ["f32", "bf16"] if experts else ["f32"]:
        more = [*files, *(["--dynamic", str(experts), "--experts", storage] if experts else [])]
        runs[f"dynet {storage}"] = lambda more=more: ours(a, net, batch, threads, *more)
    times, errors = {}, {}
    for _ in range(a.rounds):
        for name, run in runs.items():
            result = run()
            times.setdefault(name, []).append(result["median_ms"])
            errors[name] = result["max_err"]
    return {"net": net, "experts": experts, "batch": batch, "mode": mode, "threads": threads, "logit_scale": scale,
            "median_ms": {k: round(statistics.median(v), 4) for k, v in times.items()}, "max_err": errors}


def paper(a, threads):
    """The paper's nets on this engine, in turn with the static nets that they replace."""
    for net, static in PAPER:
        runs = {static: lambda: ours(a, static, 1, threads)}
        for storage in ["f32", "bf16", "int8"]:
            runs[f"{net} {storage}"] = lambda storage=storage: ours(a, net, 1, threads, "--experts", storage)
        times = {}
        for _ in range(a.rounds):
            for name, run in runs.items():
                times.setdefault(name, []).append(run()["median_ms"])
        yield {"paper": net, "replaces": static, "threads": threads,
               "median_ms": {k: round(statistics.median(v), 4) for k, v in times.items()}}


def machine():
    name = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as f:
        name = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def table(rows):
    """One row a case: milliseconds, and this engine's time as a share of the fastest peer's."""
    names = list(dict.fromkeys(name for row in rows for name in row["median_ms"]))
    peers = [n for n in names if not n.startswith("dynet")]
    own = [n for n in names if n.startswith("dynet")]
    head = ["net", "K", "batch", "threads", *names, *(f"{n} : fastest peer" for n in own), "largest error : largest logit"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ms = row["median_ms"]
        fastest = min(ms[p] for p in peers if p in ms)
        ratio = [f"{ms[n] / fastest:.2f}" if n in ms else "" for n in own]
        error = f"{row['max_err']['dynet f32'] / row['logit_scale']:.1e}"
        cells = [row["net"], row["experts"] or "static", row["batch"], row["threads"],
                 *(f"{ms[n]:.3g}" if n in ms else "" for n in names), *ratio, error]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def merged(rows):
    """Both forms of a peer's batch as one case: the better of the two."""
    found = {}
    for row in rows:
        key = (row["net"], row["experts"], row["batch"], row["threads"])
        if key not in found:
            found[key] = {**row, "median_ms": dict(row["median_ms"])}
            continue
        for name, ms in row["median_ms"].items():
            kept = found[key]["median_ms"]
            kept[name] = min(ms, kept.get(name, ms))
    return list(found.values())


def inference(a):
    rows = []
    nets = [a.only] if a.only else NETS
    scales = {case: exported(a, *case) for case in cases(nets)}
    for case in cases(nets):
        for threads in (1, 2):
            rows.append(measure(a, *case, threads, scales[case]))
            print(json.dumps(rows[-1]), flush=True)
    own = [] if a.only else [row for threads in (1, 2) for row in paper(a, threads)]
    text = table(merged(rows)) + "\n"
    if own:
        text += "\n## The paper's nets, batch 1, on this engine\n\n| net | threads | static net | f32 | bf16 | int8 | times faster: f32 / bf16 / int8 |\n|---|---|---|---|---|---|---|\n"
    for row in own:
        ms = row["median_ms"]
        static, mine = ms[row["replaces"]], [ms[f"{row['paper']} {s}"] for s in ["f32", "bf16", "int8"]]
        text += (f"| {row['paper']} | {row['threads']} | {row['replaces']} {static:.3g} | " + " | ".join(f"{m:.3g}" for m in mine)
                 + " | " + " / ".join(f"{static / m:.2f}" for m in mine) + " |\n")
    return rows + own, text


def training(a):
    rows = []
    for net, batch, size in TRAINING:
        if a.only and a.only != net:
            continue
        own = f"{a.dynet} bench --train {net} --batch {{batch}} --size {{size}} --threads 2 --json"
        row = {}
        for name, modes, also in [("dynamic", "static,fuse,groups,mix", own + " --dynamic 4"), ("static", "static", own)]:
            row[name] = last_json([sys.executable, os.path.join(HERE, "train_peers.py"), "--net", net, "--batch", str(batch), "--size", str(size),
                                   "--rounds", str(a.rounds), "--modes", modes, "--also", also])
        rows.append({"net": net, "batch": batch, "size": size, **row})
        print(json.dumps(rows[-1]), flush=True)
    lines = ["| net | batch x size | PyTorch static | PyTorch K = 4: fuse / groups / mix | dynet static | dynet K = 4 | K = 4 : PyTorch static | best PyTorch K = 4 : ours | static : PyTorch static | K = 4 : own static |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        d, s = row["dynamic"]["median_ms"], row["static"]["median_ms"]
        modes = [d[m] for m in ("fuse", "groups", "mix")]
        lines.append(f"| {row['net']} | {row['batch']} x {row['size']} | {d['static']:.0f} | " + " / ".join(f"{m:.0f}" for m in modes)
                     + f" | {s['also']:.0f} | {d['also']:.0f} | {d['also'] / d['static']:.2f} | {min(modes) / d['also']:.2f}"
                     + f" | {s['also'] / s['static']:.2f} | {d['also'] / s['also']:.2f} |")
    return rows, "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["inference", "training"])
    p.add_argument("--dynet", required=True, help="the built command")
    p.add_argument("--work", default="peers", help="folder for exported nets")
    p.add_argument("--out", required=True, help="path of the record without its ending")
    p.add_argument("--only", choices=NETS)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=0.7, help="per engine and round")
    p.add_argument("--engines", default="onnxruntime,openvino,torch")
    a = p.parse_args()
    rows, text = inference(a) if a.what == "inference" else training(a)
    with open(a.out + ".jsonl", "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    command = "bench/record.py " + " ".join([a.what, "--rounds", str(a.rounds)] + (["--seconds", str(a.seconds), "--engines", a.engines] if a.what == "inference" else []))
    with open(a.out + ".md", "w") as f:
        f.write(f"# {a.what.capitalize()}, {datetime.date.today()}\n\n{machine()}. `{command}`. Milliseconds, medians over the rounds of each engine's "
                "median; each engine alone in its process, the engines in turn.\n\n" + text)


main()
