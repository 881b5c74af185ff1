#!/usr/bin/env python3
"""Measures this engine beside its peers on all nets and writes the record: JSON lines and a Markdown table.

  record.py inference --dynet target/release/dynet --work DIR --out bench/records/DATE-inference [--rounds 3] [--minutes 25]
  record.py training  --dynet target/release/dynet --out bench/records/DATE-training [--rounds 2]

`inference` first exports every net with peers.py (which takes a while, measures nothing, and is done once a folder), then runs the engines in
turn, each alone in a process of its own, and takes the median over the rounds of each engine's median. Every line of
the record holds the largest absolute error of each engine's logits against PyTorch's and the largest logit.
Both files of the record are written anew after each case, so that a run that is stopped leaves what it has; with `--minutes` no case starts
after that time. An engine that fails is left out of its case, with a line on standard error. `--engines auto` takes ONNX Runtime and
OpenVINO, and PyTorch where it is cheap: static nets of one image.
On a machine whose speed changes by the second many short rounds help, of which `--rounds-by least` takes the least median of each engine;
`--only-static` leaves out the nets of K = 4.
With `--precision bf16` this engine and OpenVINO multiply bfloat16; the other peers have no such choice and stay f32.
`training` runs train_peers.py with this engine as one more. `--only` measures some nets, among them the paper's for `inference`.
"""
import argparse, datetime, json, os, platform, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(HERE, "peers.py")
NETS = ["mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "shufflenet_v2_x1_0", "resnet18", "resnet50"]
# The paper's nets and the static nets that they replace.
PAPER = [("dy_resnet50", "resnet50"), ("dy_resnet18", "resnet18"), ("dy_mobile", "mobilenet_v2"), ("dy_shuffle_x1_0", "shufflenet_v2_x1_0")]
BATCHES = "1,8"
TRAINING = [("mobilenet_v3_small", 32, 224), ("mobilenet_v3_small", 64, 64), ("mobilenet_v2", 32, 96), ("shufflenet_v2_x1_0", 32, 96),
            ("resnet18", 32, 64), ("resnet50", 16, 64)]


def last_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    return json.loads(done.stdout.strip().splitlines()[-1])


def cases(nets, batches, all_experts):
    """Net, experts, batch, form of the exported graph: batches of a dynamic net in both forms."""
    for net in nets:
        for experts in all_experts:
            for batch in batches:
                yield net, experts, batch, "fuse"
                if experts and batch > 1:
                    yield net, experts, batch, "groups"


def peer(a, net, experts, batch, mode, threads, engine=None):
    command = [sys.executable, PEERS, "--net", net, "--experts", str(experts), "--batch", str(batch), "--mode", mode,
               "--threads", str(threads), "--seconds", str(a.seconds), "--out", os.path.join(a.work, mode), "--precision", a.precision]
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
    command = [a.dynet, "bench", net, "--batch", str(batch), "--threads", str(threads), "--seconds", str(a.seconds),
               "--precision", a.precision, "--json", *more]
    return last_json(command)


def turns(a, runs):
    """Runs every engine once a round, in turn; returns what each reported, by round."""
    results = {}
    for _ in range(a.rounds):
        for name, run in runs.items():
            try:
                results.setdefault(name, []).append(run())
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
    return {name: got for name, got in results.items() if got}


ROUNDS_BY = {"median": ("medians over the rounds", statistics.median), "least": ("the least over the rounds", min)}


def medians(a, results):
    of_rounds = ROUNDS_BY[a.rounds_by][1]
    return {name: round(of_rounds([r["median_ms"] for r in got]), 4) for name, got in results.items()}


def engines(a, experts, batch):
    if a.engines != "auto":
        return a.engines.split(",")
    return ["onnxruntime", "openvino"] + (["torch"] if not experts and batch == 1 else [])


def measure(a, net, experts, batch, mode, threads, scale):
    stem = stem_of(a, net, experts, batch, mode)
    files = ["--weights", stem + ".safetensors", "--input", stem + ".x.npy", "--expect", stem + ".y.npy"]
    runs = {e: (lambda e=e: peer(a, net, experts, batch, mode, threads, e)) for e in engines(a, experts, batch)}
    # The exported form changes the peers alone: ours is measured beside the first one.
    storages = [] if mode == "groups" else ["f32", "bf16", "int8"] if experts else ["f32"]
    for storage in storages:
        more = [*files, *(["--dynamic", str(experts), "--experts", storage] if experts else [])]
        runs[f"dynet {storage}"] = lambda more=more: ours(a, net, batch, threads, *more)
    results = turns(a, runs)
    floors = {n: r[0]["floor_ms"] for n, r in results.items() if n.startswith("dynet")}
    return {"net": net, "experts": experts, "batch": batch, "mode": mode, "threads": threads, "logit_scale": scale,
            "median_ms": medians(a, results), "max_err": {n: r[-1]["max_err"] for n, r in results.items()}, "floor_ms": floors}


def paper(a, net, static, threads):
    """One of the paper's nets on this engine, in turn with the static net that it replaces."""
    runs = {static: lambda: ours(a, static, 1, threads)}
    for storage in ["f32", "bf16", "int8"]:
        runs[f"{net} {storage}"] = lambda storage=storage: ours(a, net, 1, threads, "--experts", storage)
    return {"paper": net, "replaces": static, "threads": threads, "median_ms": medians(a, turns(a, runs))}


def machine():
    """The processor, the widest instructions it has for vectors, and cores."""
    with open("/proc/cpuinfo") as f:
        info = dict(line.split(":", 1) for line in f if ":" in line)
    found = {key.strip(): value.strip() for key, value in info.items()}
    name, flags = found.get("model name", platform.machine()), found.get("flags", "").split()
    widest = next((isa for flag, isa in [("avx512f", "AVX-512"), ("avx2", "AVX2")] if flag in flags), "neither AVX-512 nor AVX2")
    return f"{name} ({widest}), {os.cpu_count()} cores"


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def kind(row):
    return [row["net"], f"K = {row['experts']}" if row["experts"] else "static", row["batch"]]


def table(rows):
    """One row a case: milliseconds, and this engine's time as a share of the fastest peer's."""
    names = list(dict.fromkeys(name for row in rows for name in row["median_ms"]))
    names = [n for n in names if not n.startswith("dynet")] + [n for n in names if n.startswith("dynet")]
    own = [n for n in names if n.startswith("dynet")]
    cells = []
    for row in rows:
        ms = row["median_ms"]
        fastest = min((t for n, t in ms.items() if n not in own), default=float("nan"))
        error = row["max_err"].get("dynet f32", float("nan")) / row["logit_scale"]
        cells.append([*kind(row), row["threads"], *(f"{ms[n]:.3g}" if n in ms else "" for n in names),
                      *(f"{ms[n] / fastest:.2f}" if n in ms else "" for n in own), f"{error:.1e}"])
    return markdown(["net", "kernels", "batch", "threads", *names, *(f"{n} : fastest peer" for n in own),
                     "largest error : largest logit"], cells)


def summary(rows):
    """What the targets are about: one row a net, kernels and batch; both thread counts side by side."""
    found = {}
    for row in rows:
        found.setdefault(tuple(kind(row)), {})[row["threads"]] = row
    cells = []
    for (net, form, batch), by in found.items():
        def each(value):
            return " / ".join(f"{v:.2f}" if v is not None else "-" for v in (value(by[t]) if t in by else None for t in (1, 2)))
        def peers(row):
            return min((t for n, t in row["median_ms"].items() if not n.startswith("dynet")), default=None)
        def share(name):
            return each(lambda r: r["median_ms"][name] / peers(r) if name in r["median_ms"] and peers(r) else None)
        def twin(row):
            static = found.get((net, "static", batch), {}).get(row["threads"])
            return row["median_ms"]["dynet bf16"] / peers(static) if static and peers(static) and "dynet bf16" in row["median_ms"] else None
        ms = {t: r["median_ms"].get("dynet f32") for t, r in by.items()}
        second = f"{ms[1] / ms[2]:.2f}" if ms.get(1) and ms.get(2) else "-"
        floor = each(lambda r: r["floor_ms"]["dynet f32"] / r["median_ms"]["dynet f32"] if "dynet f32" in r["floor_ms"] else None)
        cells.append([net, form, batch, share("dynet f32"), share("dynet bf16"), each(twin), second, floor])
    return markdown(["net", "kernels", "batch", "f32 : fastest peer, 1 / 2 threads", "bf16 : fastest peer", "bf16 : static twin on the fastest peer",
                     "a second thread makes it faster by", "share of the floor reached"], cells)


def merged(rows):
    """Both forms of a peer's batch as one case: the better of the two."""
    found = {}
    for row in rows:
        key = (row["net"], row["experts"], row["batch"], row["threads"])
        if key not in found:
            found[key] = {**row, "median_ms": dict(row["median_ms"])}
            continue
        kept = found[key]["median_ms"]
        for name, ms in row["median_ms"].items():
            kept[name] = min(ms, kept.get(name, ms))
    return list(found.values())


def paper_table(own, rows):
    """The static net is taken from whoever runs it faster: this engine or a peer."""
    cells = []
    for row in own:
        ms = row["median_ms"]
        static = ms.get(row["replaces"], float("nan"))
        peers = [t for r in rows if (r["net"], r["experts"], r["batch"], r["threads"]) == (row["replaces"], 0, 1, row["threads"])
                 for n, t in r["median_ms"].items() if not n.startswith("dynet")]
        least = min([static, *peers])
        mine = [ms.get(f"{row['paper']} {s}", float("nan")) for s in ["f32", "bf16", "int8"]]
        cells.append([row["paper"], row["threads"], f"{row['replaces']} {static:.3g}", f"{min(peers):.3g}" if peers else "",
                      *(f"{m:.3g}" for m in mine), " / ".join(f"{least / m:.2f}" for m in mine)])
    return markdown(["net", "threads", "static net here", "on the fastest peer", "f32", "bf16", "int8", "times faster: f32 / bf16 / int8"], cells)


def inference(a):
    """The paper's nets first, then case after case; each is written when it is done."""
    rows, own = [], []
    nets = [net for net in NETS if a.only is None or net in a.only]
    papers = [p for p in PAPER if a.only is None or p[0] in a.only]
    end = time.monotonic() + a.minutes * 60
    todo = [lambda p=p, t=t: own.append(paper(a, *p, t)) for p in papers for t in (1, 2)]
    for case in cases(nets, [int(b) for b in a.batches.split(",")], (0,) if a.only_static else (0, 4)):
        scale = exported(a, *case)
        todo += [lambda c=case, t=t, s=scale: rows.append(measure(a, *c, t, s)) for t in (1, 2)]
    for done, work in enumerate(todo):
        if time.monotonic() > end:
            print(f"time is up: {len(todo) - done} of {len(todo)} cases are missing", file=sys.stderr)
            break
        work()
        both = merged(rows)
        text = summary(both) + "\n## All cases\n\n" + table(both) if rows else ""
        if own:
            text += "\n## The paper's nets, batch 1\n\n" + paper_table(own, both)
        write(a, rows + own, text)


def step_times(a, net, batch, size):
    """PyTorch's static step and its dynamic ones, our static and dynamic step, in turn."""
    own = f"{a.dynet} bench --train {net} --batch {{batch}} --size {{size}} --threads 2 --json"
    return last_json([sys.executable, os.path.join(HERE, "train_peers.py"), "--net", net, "--batch", str(batch), "--size", str(size),
                      "--rounds", str(a.rounds), "--also", "dynet_static=" + own, "--also", "dynet_k4=" + own + " --dynamic 4"])


def training_table(rows):
    lines = ["| net | batch x size | PyTorch static | PyTorch K = 4: fuse / groups / mix | dynet static | dynet K = 4 | K = 4 : PyTorch static | "
             "best PyTorch K = 4 : ours | static : PyTorch static | K = 4 : own static |", "|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        ms = row["median_ms"]
        modes = [ms[m] for m in ("fuse", "groups", "mix")]
        own, static = ms["dynet_k4"], ms["dynet_static"]
        lines.append(f"| {row['net']} | {row['batch']} x {row['size']} | {ms['static']:.0f} | " + " / ".join(f"{m:.0f}" for m in modes)
                     + f" | {static:.0f} | {own:.0f} | {own / ms['static']:.2f} | {min(modes) / own:.2f}"
                     + f" | {static / ms['static']:.2f} | {own / static:.2f} |")
    lines += ["", "Greatest memory of the process, in MiB. Allowed is 1.3 times the static net's, and the weights that the dynamic net has more, "
              "with their gradients and velocities.", "", "| net | static | K = 4 | allowed | K = 4 : allowed |", "|---|---|---|---|---|"]
    for row in rows:
        static, own = row["last"]["dynet_static"], row["last"]["dynet_k4"]
        peaks = [r["peak_memory_bytes"] for r in (static, own)]
        if None in peaks:
            continue
        allowed = 1.3 * peaks[0] + 3 * 4 * (own["parameters"] - static["parameters"])
        lines.append(f"| {row['net']} | {peaks[0] >> 20} | {peaks[1] >> 20} | {int(allowed) >> 20} | {peaks[1] / allowed:.2f} |")
    return "\n".join(lines) + "\n"


def training(a):
    rows = []
    for net, batch, size in TRAINING:
        if a.only and net not in a.only:
            continue
        rows.append(step_times(a, net, batch, size))
        write(a, rows, training_table(rows))


def write(a, rows, text):
    print(json.dumps(rows[-1]), flush=True)
    with open(a.out + ".jsonl", "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    command = f"bench/record.py {a.what} --rounds {a.rounds}"
    command += f" --only {','.join(a.only)}" if a.only else ""
    if a.what == "inference":
        command += f" --seconds {a.seconds} --engines {a.engines}" + (f" --batches {a.batches}" if a.batches != BATCHES else "")
        command += " --only-static" if a.only_static else ""
        command += f" --precision {a.precision}" if a.precision != "f32" else ""
        command += f" --rounds-by {a.rounds_by}" if a.rounds_by != "median" else ""
    with open(a.out + ".md", "w") as f:
        f.write(f"# {a.what.capitalize()}, {datetime.date.today()}\n\n{machine()}. `{command}`. Milliseconds, {ROUNDS_BY[a.rounds_by][0]} of each engine's "
                "median; each engine alone in its process, the engines in turn.\n\n" + text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["inference", "training"])
    p.add_argument("--dynet", required=True, help="the built command")
    p.add_argument("--work", default="peers", help="folder for exported nets")
    p.add_argument("--out", required=True, help="path of the record without its ending")
    p.add_argument("--only", type=lambda s: s.split(","), help="nets to measure, several with commas")
    p.add_argument("--batches", default=BATCHES, help="images of a run, several with commas")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rounds-by", choices=ROUNDS_BY, default="median", help="what of an engine's rounds is written down")
    p.add_argument("--only-static", action="store_true")
    p.add_argument("--precision", default="f32", choices=["f32", "bf16"], help="what this engine and OpenVINO multiply")
    p.add_argument("--seconds", type=float, default=0.7, help="per engine and round")
    p.add_argument("--minutes", type=float, default=float("inf"), help="start no case of `inference` after this time")
    p.add_argument("--engines", default="auto", help="auto, or some of onnxruntime,openvino,torch")
    a = p.parse_args()
    known = NETS + [p[0] for p in PAPER] if a.what == "inference" else list(dict.fromkeys(t[0] for t in TRAINING))
    unknown = [net for net in a.only or [] if net not in known]
    if unknown:
        p.error(f"argument --only: {', '.join(unknown)}: {a.what} knows {', '.join(known)}")
    inference(a) if a.what == "inference" else training(a)


main()
