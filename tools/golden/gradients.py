"""Gradients of a small net in training, static and with every form of coefficients: golden/gradients.json.

    python tools/golden/gradients.py       writes golden/gradients.json

The net, crates/dynet-nn/tests/common/small_net.rs in PyTorch, has every operation that trains; its dynamic convolutions
are fused image by image. Weights and images are formula.py's, batch statistics in the norms, cross-entropy of image i
with class i % CLASSES. Computed in f64. Of each gradient the file holds the norm, the sum, and SELECTED entries evenly
spread; `images` is that of the images. `f32_error` is the largest error of PyTorch's own f32 gradients, relative to the
largest value of the tensor or a tenth of the largest of all.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import formula

ROOT = Path(__file__).resolve().parents[2]
IMAGES, CLASSES, SHAPE, SELECTED = 4, 3, (3, 10, 9), 8
# Options as dynet-net spells them; no `experts`: static.
CASES = [
    {},
    {"experts": 3, "activation": {"softmax": {"temperature": 2.0}}, "coefficients": "channel"},
    {"experts": 2, "activation": {"softmax": {"temperature": 1.0}}, "coefficients": "kernel", "squeeze": 2},
    {"experts": 3, "activation": "sigmoid", "coefficients": "kernel"},
    {"experts": 4, "activation": "sigmoid", "coefficients": "channel", "squeeze": 4},
]


class Predictor(nn.Module):
    def __init__(self, c_in, c_out, case):
        super().__init__()
        self.case, channels = case, c_out if case["coefficients"] == "channel" else 1
        self.channels, count = channels, case["experts"] * channels
        if "squeeze" in case:
            hidden = max(c_in // case["squeeze"], 1)
            self.fc1, self.fc2 = nn.Linear(c_in, hidden), nn.Linear(hidden, count)
        else:
            self.fc = nn.Linear(c_in, count)

    def forward(self, x):
        pooled = x.mean((2, 3))
        scores = self.fc(pooled) if hasattr(self, "fc") else self.fc2(F.relu(self.fc1(pooled)))
        scores = scores.view(len(x), self.case["experts"], self.channels)
        if self.case["activation"] == "sigmoid":
            return torch.sigmoid(scores)
        return torch.softmax(scores / self.case["activation"]["softmax"]["temperature"], 1)


class Dynamic(nn.Module):
    def __init__(self, case, c_in, c_out, kernel, stride=1, groups=1, bias=False):
        super().__init__()
        self.options = dict(stride=stride, padding=kernel // 2, groups=groups)
        self.weight = nn.Parameter(torch.zeros(case["experts"], c_out, c_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self._coefficient_fn = Predictor(c_in, c_out, case)

    def forward(self, x):
        coefs = self._coefficient_fn(x)
        kernels = (coefs[:, :, :, None, None, None] * self.weight[None]).sum(1)
        return torch.cat([F.conv2d(image[None], kernel, self.bias, **self.options) for image, kernel in zip(x, kernels)])


class Small(nn.Module):
    def __init__(self, case):
        super().__init__()

        def conv(c_in, c_out, kernel, stride=1, groups=1, bias=False):
            if "experts" in case:
                return Dynamic(case, c_in, c_out, kernel, stride, groups, bias)
            return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)

        self.stem, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.norm2 = conv(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.grouped, self.gate = conv(8, 8, 3, groups=2), nn.Conv2d(8, 8, 1)
        self.wide, self.norm3 = conv(8, 12, 3, stride=2, bias=True), nn.BatchNorm2d(12)
        self.point, self.norm4 = conv(12, 12, 1), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.hardswish(self.norm1(self.stem(x))), 3, 2, 1)
        y = self.grouped(F.relu6(self.norm2(self.deep(x))))
        y = y * F.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        y = F.relu(self.norm3(self.wide(x + y)))
        left, right = y[:, :8], y[:, 8:]
        y = torch.sigmoid(self.norm4(self.point(torch.cat([right, left], 1))))
        n, c, h, w = y.shape
        y = y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(y.mean((2, 3)))


def gradients(case, dtype):
    net = formula.fill(Small(case)).to(dtype).train()
    x = formula.images(IMAGES, SHAPE).to(dtype).requires_grad_()
    loss = F.cross_entropy(net(x), torch.arange(IMAGES) % CLASSES)
    loss.backward()
    return loss.item(), {"images": x.grad, **{name: p.grad for name, p in net.named_parameters()}}


def entry(case):
    loss, exact = gradients(case, torch.float64)
    _, narrow = gradients(case, torch.float32)
    largest = max(g.abs().max().item() for g in exact.values())
    error = max(((narrow[name].double() - g).abs().max() / max(g.abs().max().item(), largest / 10)).item()
                for name, g in exact.items())
    print(case, f"loss {loss:.4f}, gradients to {largest:.3g}, f32 error {error:.1g}")
    assert largest > 0.05 and error < 5e-6, "a net that tells little"
    short = lambda value: float(f"{value:.9g}")
    told = {}
    for name, g in exact.items():
        flat = g.flatten()
        spread = [flat[i * len(flat) // SELECTED].item() for i in range(min(SELECTED, len(flat)))]
        told[name] = {"norm": short(flat.norm().item()), "sum": short(flat.sum().item()), "entries": [*map(short, spread)]}
    return {"options": case and {**case, "dropout": 0.0} or None, "f32_error": float(f"{error:.1e}"), "loss": short(loss), "gradients": told}


def main():
    cases = [entry(case) for case in CASES]
    head = {"torch": torch.__version__.split("+")[0], "images": IMAGES, "selected": SELECTED}
    path = ROOT / "golden/gradients.json"
    path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(map(json.dumps, cases)) + "\n]}\n")


main()
