"""Names, order and shapes of the state dicts that dynet-net must give, as one hash a net.

    python tools/golden/net_params.py                  writes crates/dynet-net/tests/golden/net_params.json
    python tools/golden/net_params.py --list NET[+K]   prints what is hashed, to find a difference

The static nets are torchvision's; `NET+K` is the same with bench/nets.py's make_dynamic, K experts. A line is
`name sizes`, running statistics included, the batch counters (`num_batches_tracked`) left out.
"""
import hashlib
import json
import sys
from pathlib import Path

import torchvision
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from nets import make_dynamic  # noqa: E402

NETS = [
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
]
EXPERTS = [0, 3]
# torchvision has a width multiplier for the MobileNets alone.
WIDTHS = [0.35, 0.5, 1.4]


def build(name, experts, width, classes):
    if name.startswith("mobilenet_v3"):
        net = MobileNetV3(*_mobilenet_v3_conf(name, width_mult=width), num_classes=classes)
    elif name == "mobilenet_v2":
        net = torchvision.models.mobilenet_v2(width_mult=width, num_classes=classes)
    else:
        net = getattr(torchvision.models, name)(num_classes=classes)
    return make_dynamic(net, experts) if experts else net


def lines(net):
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    return [" ".join([name, *map(str, value.shape)]) for name, value in state.items()]


def entry(name, experts, width=1.0, classes=1000):
    net = build(name, experts, width, classes)
    text = lines(net)
    return {
        "name": name,
        "experts": experts,
        "width": width,
        "classes": classes,
        "tensors": len(text),
        "parameters": sum(p.numel() for p in net.parameters()),
        "sha256": hashlib.sha256("".join(line + "\n" for line in text).encode()).hexdigest(),
    }


def main():
    if sys.argv[1:2] == ["--list"]:
        name, _, experts = sys.argv[2].partition("+")
        print("\n".join(lines(build(name, int(experts or 0), 1.0, 1000))))
        return
    entries = [entry(name, experts) for name in NETS for experts in EXPERTS]
    entries += [entry(name, 0, width, 10) for name in NETS if name.startswith("mobilenet") for width in WIDTHS]
    golden = {"torchvision": torchvision.__version__.split("+")[0], "nets": entries}
    path = ROOT / "crates/dynet-net/tests/golden/net_params.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, indent=1) + "\n")


main()
