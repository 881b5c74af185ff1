"""Weights and images by formula: crates/dynet-net/src/formula.rs in Python, the same bits.

    python tools/golden/formula.py         prints the values that the Rust side's test holds
"""
import numpy as np
import torch
from torch import nn

U64 = np.uint64


def uniform(name, shape):
    """Values in [-1, 1): splitmix64 started at the FNV-1a hash of the name."""
    start = 0xCBF29CE484222325
    for byte in name.encode():
        start = (start ^ byte) * 0x100000001B3 % 2**64
    count = int(np.prod(shape))
    z = np.arange(1, count + 1, dtype=U64) * U64(0x9E3779B97F4A7C15) + U64(start)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    z ^= z >> U64(31)
    return ((z >> U64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)).reshape(shape)


def placed(name, shape, offset, scale):
    return np.float32(offset) + np.float32(scale) * uniform(name, shape)


def tensor_of(name, shape, module, gain):
    """The values of one tensor of a state dict, by the module that holds it."""
    kind = name.rpartition(".")[2]
    if isinstance(module, nn.BatchNorm2d) and kind != "bias":
        offset, scale = {"weight": (1, 0.25), "running_mean": (0, 0.0625), "running_var": (1, 0.25)}[kind]
        return placed(name, shape, offset, scale)
    if kind == "bias":
        return placed(name, shape, 0, 0.0625)
    # One output reads the last three sizes of a kernel, the last one of a matrix.
    fan_in = int(np.prod(shape[-3:])) if len(shape) > 2 else shape[-1]
    variance = 0.5 if "_coefficient_fn" in name else 2.0
    return placed(name, shape, 0, np.sqrt(3.0 * variance / fan_in) * (gain if len(shape) > 2 else 1.0))


def fill(net, gain=1.0):
    """Gives every tensor of a net its values, rounded to f32 whatever the net's type."""
    modules = dict(net.named_modules())
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                values = tensor_of(name, tuple(tensor.shape), modules[name.rpartition(".")[0]], gain)
                tensor.copy_(torch.from_numpy(values))
    return net


def image(shape, index):
    means = uniform(f"image.{index}.mean", shape[0])
    return uniform(f"image.{index}", shape) + means[:, None, None]


def images(count, shape):
    return torch.from_numpy(np.stack([image(shape, index) for index in range(count)]))


if __name__ == "__main__":
    for values in [uniform("layer1.0.conv1.weight", 4), image((2, 1, 2), 1)]:
        print([hex(v) for v in values.reshape(-1).view(np.uint32).tolist()])
