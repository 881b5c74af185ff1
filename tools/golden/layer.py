"""The seed document's layer with every option: crates/dynet-nn/tests/golden/layer.safetensors.

    python tools/golden/layer.py           writes it; compares with the seed's own class where ../shared/seed exists

For each case `CASE/output` and, of the sum of the output times `CASE.upstream`, the gradients `CASE/input` and
`CASE/NAME` of every parameter, computed in f64 and stored in f32. Values of input and parameters are
formula.uniform's of `CASE.input` and `CASE.NAME`, scaled by SCALES. The metadata's `cases` holds the options.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import formula

ROOT = Path(__file__).resolve().parents[2]
SCALES = {"weight": 0.5, "bias": 0.25, "_coefficient_fn.fc.weight": 2.0, "_coefficient_fn.fc.bias": 0.25}
DEFAULTS = dict(images=2, size=[6, 5], channels=[3, 4], kernel=[3, 3], stride=[1, 1], padding=[1, 1], mode="zeros",
                dilation=[1, 1], groups=1, bias=True, experts=3)
CASES = {
    "plain": dict(padding=[0, 0]),
    "one_by_one": dict(kernel=[1, 1], padding=[0, 0], channels=[5, 3]),
    "one_image": dict(images=1),
    "three_images": dict(images=3, experts=2),
    "one_expert": dict(experts=1),
    "six_experts": dict(experts=6, bias=False),
    "stride": dict(stride=[2, 2], size=[7, 6]),
    "stride_by_side": dict(stride=[1, 3], size=[5, 8]),
    "dilation": dict(dilation=[2, 2], padding=[2, 2]),
    "dilation_by_side": dict(dilation=[2, 1], padding=[2, 1], stride=[1, 2], size=[7, 6]),
    "groups": dict(channels=[4, 6], groups=2),
    "depthwise": dict(channels=[4, 4], groups=4, kernel=[5, 5], padding=[2, 2]),
    "depthwise_stride": dict(channels=[4, 4], groups=4, stride=[2, 2], bias=False),
    "depthwise_twofold": dict(channels=[3, 6], groups=3),
    "wide_kernel": dict(kernel=[1, 5], padding=[0, 2]),
    "high_kernel": dict(kernel=[4, 2], padding=[2, 1], size=[8, 4]),
    "reflect": dict(mode="reflect", padding=[2, 1]),
    "reflect_groups": dict(mode="reflect", padding=[1, 2], channels=[4, 4], groups=2, stride=[2, 1]),
    "replicate": dict(mode="replicate", padding=[1, 2]),
    "replicate_dilation": dict(mode="replicate", padding=[2, 2], dilation=[2, 2], bias=False),
    "circular": dict(mode="circular", padding=[2, 1]),
    "circular_stride": dict(mode="circular", padding=[1, 2], stride=[2, 2], kernel=[3, 5], size=[6, 7]),
    "circular_depthwise": dict(mode="circular", channels=[3, 3], groups=3, experts=4),
}


class Layer(nn.Module):
    """Coefficients from the pooled image, softmax over the K kernels of each output channel, Eq. 1 image by image."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        (c_in, c_out), k = case["channels"], case["experts"]
        self.weight = nn.Parameter(torch.zeros(k, c_out, c_in // case["groups"], *case["kernel"]))
        self.bias = nn.Parameter(torch.zeros(c_out)) if case["bias"] else None
        self._coefficient_fn = nn.Module()
        self._coefficient_fn.fc = nn.Linear(c_in, k * c_out)

    def forward(self, x):
        k, c_out = self.weight.shape[:2]
        coefs = self._coefficient_fn.fc(x.mean((2, 3))).view(len(x), k, c_out).softmax(1)
        kernels = torch.einsum("nko,koihw->noihw", coefs, self.weight)
        padding = self.case["padding"]
        if self.case["mode"] != "zeros":
            rows, columns = padding
            x, padding = F.pad(x, [columns, columns, rows, rows], self.case["mode"]), [0, 0]
        parts = [F.conv2d(image[None], kernel, self.bias, self.case["stride"], padding, self.case["dilation"],
                          self.case["groups"]) for image, kernel in zip(x, kernels)]
        return torch.cat(parts)


def values(name, case, key, shape):
    return torch.from_numpy(formula.placed(f"{name}.{key}", tuple(shape), 0, SCALES.get(key, 1.0)))


def run(name, case, layer):
    """Output and gradients of a layer by their names in the file."""
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            parameter.copy_(values(name, case, key, parameter.shape))
    layer = layer.double().eval()
    x = values(name, case, "input", [case["images"], case["channels"][0], *case["size"]]).double().requires_grad_()
    output = layer(x)
    (output * values(name, case, "upstream", output.shape)).sum().backward()
    found = {"output": output.detach(), "input": x.grad}
    found |= {key: parameter.grad for key, parameter in layer.named_parameters()}
    return {f"{name}/{key}": value for key, value in found.items()}


def seed_class():
    """The seed document's class, where the document is at hand."""
    for path in sorted((ROOT.parent / "shared/seed").glob("*.txt")):
        text, scope = path.read_text(), {}
        exec(text[text.index("import functools"):], scope)
        return scope["DyNet2D"]
    print("no seed document beside the repository: not compared with it")


def seed_layer(kind, case):
    layer = kind(*case["channels"], case["kernel"], case["stride"], case["padding"], case["dilation"], case["groups"],
                 case["bias"], case["mode"], case["experts"])
    # PyTorch 1.5 renamed what the class reads, and put width first, as its pad function wants it.
    layer._padding_repeated_twice = layer._reversed_padding_repeated_twice
    return layer


def main():
    seed, tensors, cases = seed_class(), {}, {}
    for name, options in CASES.items():
        case = DEFAULTS | options
        found = run(name, case, Layer(case))
        if seed:
            for key, value in run(name, case, seed_layer(seed, case)).items():
                assert torch.allclose(value, found[key], rtol=1e-12, atol=1e-12), f"{key} differs from the seed's"
        cases[name] = case
        tensors |= {key: value.float().contiguous() for key, value in found.items()}
    path = ROOT / "crates/dynet-nn/tests/golden/layer.safetensors"
    save_file(tensors, path, {"cases": json.dumps(cases)})
    print(len(cases), "cases,", path.stat().st_size, "bytes,", "equal to the seed's" if seed else "seed not at hand")


main()
