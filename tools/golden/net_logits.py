"""Logits of every net of the zoo, for dynet-nn and dynet-engine to equal: golden/net_logits.json.

    python tools/golden/net_logits.py      writes golden/net_logits.json

Weights and images are those of formula.py, 64 x 64 pixels and 10 classes, two images that differ. PyTorch computes in
f64, so that a difference is the error of the other side. `f32_error` is what PyTorch's own f32 loses, as the largest
difference over the largest logit of the image: it says how well a net is conditioned. `gain` is the factor on every
kernel that brings a net's logits to order one: untrained nets of this depth would vanish or explode without.
`experts` above 0: the static net with bench/nets.py's make_dynamic.
"""
import json
import sys
from pathlib import Path

import torch
import torchvision

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import formula  # noqa: E402
from nets import Coefficients, make_dynamic  # noqa: E402
from paper_nets import PAPER_NETS  # noqa: E402

# The factor on all kernels of a net; the second one of its `--dynamic` form.
STATIC = {
    "resnet18": (0.76, 0.95), "resnet50": (0.71, 0.95), "mobilenet_v2": (0.91, 1.42),
    "mobilenet_v3_small": (1.06, 1.5), "mobilenet_v3_large": (0.97, 1.36),
    "shufflenet_v2_x1_0": (0.93, 1.23), "shufflenet_v2_x1_5": (0.91, 1.23),
}
PAPER = {
    "dy_resnet18": 0.65, "dy_resnet50": 0.6, "dy_mobile": 0.7, "dy_shuffle_x1_0": 0.78, "dy_shuffle_x1_5": 0.74,
    "dy_mobilenet_v2": 0.7, "dy_mobilenet_v3_small": 0.81, "dy_mobilenet_v3_large": 0.68,
}
EXPERTS, CLASSES, SIZE, IMAGES = 4, 10, 64, 2


def static(name, experts):
    net = getattr(torchvision.models, name)(num_classes=CLASSES)
    return make_dynamic(net, experts) if experts else net


def coefficients(net, x):
    """Everything that the net's predictors say."""
    found = []
    hooks = [m.register_forward_hook(lambda _module, _inputs, output: found.append(output))
             for m in net.modules() if isinstance(m, Coefficients)]
    net(x)
    for hook in hooks:
        hook.remove()
    found += [m.coefs for m in net.modules() if hasattr(m, "coefs")]
    return found


def entry(name, experts, gain, net):
    x = formula.images(IMAGES, (3, SIZE, SIZE))
    with torch.no_grad():
        formula.fill(net.eval(), gain)
        coefs = coefficients(net, x)
        narrow = net(x).double()
        logits = net.double()(x.double())
    largest = logits.abs().amax(1)
    error = ((narrow - logits).abs().amax(1) / largest).max().item()
    apart = ((logits[0] - logits[1]).abs().max() / largest.max()).item()
    moved = [(c[0] - c[1]).abs().mean().item() for c in coefs]
    print(f"{name}+{experts}: gain {gain}, logits to {largest.max():.3g}, images {apart:.2g} apart, coefficients "
          f"{min(moved, default=1):.2g} to {max(moved, default=1):.2g}, f32 error {error:.1g}", flush=True)
    assert apart > 0.02 and 0.05 < largest.min() < 100 and error < 2e-5, "a net that tells little"
    assert min(moved, default=1) > 1e-5, "a predictor that says the same of both images"
    return {"name": name, "experts": experts, "gain": gain, "f32_error": float(f"{error:.1e}"),
            "logits": [[float(f"{v:.9g}") for v in row] for row in logits.tolist()]}


def main():
    nets = [entry(name, experts, gains[experts > 0], static(name, experts))
            for experts in (0, EXPERTS) for name, gains in STATIC.items()]
    nets += [entry(name, 0, PAPER[name], build(CLASSES)) for name, build in PAPER_NETS.items()]
    versions = {"torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0]}
    head = json.dumps({**versions, "size": SIZE, "classes": CLASSES})[:-1]
    path = ROOT / "golden/net_logits.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + ', "nets": [\n' + ",\n".join(json.dumps(net) for net in nets) + "\n]}\n")


main()
