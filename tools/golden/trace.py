"""Losses of ten SGD steps of a small dynamic net: golden/sgd_trace.json.

    python tools/golden/trace.py           writes golden/sgd_trace.json

Weights and images are formula.py's, one batch of 8 images of 64 x 64 pixels in 5 classes, `--dynamic 3` by
bench/nets.py without dropout, batch statistics in the norms, cross-entropy, rate 0.002, momentum 0.9. Computed in f64;
`f32_error` is how far PyTorch's own f32 is from that at the worst step, relative to its loss: it must stay small, or
rounding decides. A ten times larger rate, or a ShuffleNet of this width, gives errors of a tenth and more.
"""
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.models.resnet import BasicBlock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import formula  # noqa: E402
from nets import make_dynamic, set_mode  # noqa: E402
from paper_nets import resnet  # noqa: E402

EXPERTS, CLASSES, SIZE, IMAGES, STEPS, RATE, MOMENTUM = 3, 5, 64, 8, 10, 0.002, 0.9
# The zoo's channels at this width.
NETS = {
    ("resnet18", 0.125): lambda: resnet(BasicBlock, [2, 2, 2, 2], 8, [8, 16, 32, 64], CLASSES),
}


def losses(net, dtype):
    net = formula.fill(make_dynamic(net, EXPERTS)).to(dtype).train()
    set_mode(net, "mix")
    x, labels = formula.images(IMAGES, (3, SIZE, SIZE)).to(dtype), torch.arange(IMAGES) % CLASSES
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    found = []
    for _ in range(STEPS):
        loss = F.cross_entropy(net(x), labels)
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


def main():
    nets = []
    for (name, width), build in NETS.items():
        exact, narrow = losses(build(), torch.float64), losses(build(), torch.float32)
        error = max(abs(n - e) / e for n, e in zip(narrow, exact))
        assert error < 1e-4, f"{name}: rounding decides, PyTorch's own f32 is off by {error:.1e}"
        print(name, [f"{v:.4f}" for v in exact], f"f32 error {error:.1e}")
        nets.append({"name": name, "width": width, "f32_error": float(f"{error:.1e}"), "losses": exact})
    head = {"torch": torch.__version__.split("+")[0], "experts": EXPERTS, "classes": CLASSES, "size": SIZE,
            "images": IMAGES, "rate": RATE, "momentum": MOMENTUM}
    path = ROOT / "golden/sgd_trace.json"
    path.write_text(json.dumps(head)[:-1] + ', "nets": [\n' + ",\n".join(map(json.dumps, nets)) + "\n]}\n")


main()
