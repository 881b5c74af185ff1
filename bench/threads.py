#!/usr/bin/env python3
"""What more threads give: one image on this engine and on others, for several numbers of threads.

  threads.py --dynet target/release/dynet --work DIR --out STEM [--nets resnet50,mobilenet_v2:4] [--threads 1,2,4,8,16]

A net is a name of nets.py, with `:K` for K fixed kernels per dynamic convolution. Each engine runs alone in a process of its own, the
engines in turn, on the same weights and image (peers.py). Writes STEM.jsonl, a line for each net and number of threads, and
STEM.md. Needs what peers.py needs.
"""
import argparse, json, os, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))


def last_json(command):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(command)}: exit status {r.returncode}\n{r.stderr[-2000:]}")
    return json.loads(r.stdout.strip().splitlines()[-1])


def cases(a):
    """One dict for each net and number of threads, until the time is up."""
    end = time.monotonic() + 60 * a.minutes
    for net in a.nets:
        name, _, experts = net.partition(":")
        peers = [sys.executable, os.path.join(HERE, "peers.py"), "--net", name, "--experts", experts or "0", "--out", a.work]
        peers += ["--precision", a.precision, "--seconds", str(a.seconds)]
        scale = last_json([*peers, "--rounds", "0"])["logit_scale"]
        stem = os.path.join(a.work, name + (f"_k{experts}" if experts else "") + "_b1")
        for threads in a.threads:
            if time.monotonic() > end:
                return
            case = {"net": name, "experts": int(experts or 0), "threads": threads, "precision": a.precision, "median_ms": {}}
            for engine in a.engines:
                case["median_ms"][engine] = last_json([*peers, "--threads", str(threads), "--worker", engine])["median_ms"]
            dynet = [a.dynet, "bench", name, *(["--dynamic", experts] if experts else []), "--threads", str(threads), "--precision", a.precision]
            dynet += ["--weights", stem + ".safetensors", "--input", stem + ".x.npy", "--expect", stem + ".y.npy", "--json"]
            result = last_json(dynet)
            case["median_ms"]["dynet"], case["error"] = result["median_ms"], result["max_err"] / scale
            yield case


def table(a, rows):
    engines = [*a.engines, "dynet"]
    lines = ["| net | threads | " + " | ".join(engines) + " | dynet : fastest peer | times faster than with " + str(a.threads[0]) + " | largest error |"]
    lines.append("|" + "---|" * (len(engines) + 5))
    first = {}
    for r in rows:
        ms = r["median_ms"]
        alone = first.setdefault((r["net"], r["experts"]), ms["dynet"])
        net = r["net"] + (f", K = {r['experts']}" if r["experts"] else "")
        ratio = f"{ms['dynet'] / min(ms[e] for e in a.engines):.2f}" if a.engines else ""
        cells = [net, r["threads"], *(f"{ms[e]:.3g}" for e in engines), ratio, f"{alone / ms['dynet']:.1f}", f"{r['error']:.1e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main():
    def listed(kind):
        return lambda s: [kind(x) for x in s.split(",") if x]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dynet", required=True, help="the built command")
    p.add_argument("--work", default="peers", help="folder for exported nets")
    p.add_argument("--out", required=True, help="path of the record without its ending")
    p.add_argument("--nets", type=listed(str), default="resnet50,mobilenet_v2,mobilenet_v2:4,resnet18:4,mobilenet_v3_small")
    p.add_argument("--threads", type=listed(int), default="1,2,4,8,16")
    p.add_argument("--engines", type=listed(str), default="onnxruntime,openvino", help="some of onnxruntime,openvino,torch, or none")
    p.add_argument("--precision", default="f32", choices=["f32", "bf16"], help="what this engine and OpenVINO multiply")
    p.add_argument("--seconds", type=float, default=0.4, help="per engine")
    p.add_argument("--minutes", type=float, default=float("inf"), help="start no case after this time")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    rows = []
    with open(a.out + ".jsonl", "w") as lines:
        for case in cases(a):
            rows.append(case)
            print(json.dumps(case), flush=True)
            lines.write(json.dumps(case) + "\n")
            lines.flush()
    flags = " ".join(arg for arg in sys.argv[1:] if arg not in (a.dynet, a.work, a.out, "--dynet", "--work", "--out"))
    with open(a.out + ".md", "w") as f:
        f.write(f"`bench/threads.py {flags}`. Milliseconds for one image, medians, one round.\n\n" + table(a, rows))


main()
