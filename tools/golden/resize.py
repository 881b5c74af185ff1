"""What torchvision makes of small images on the way to a net, for dynet-data's test of the same.

    python tools/golden/resize.py          writes crates/dynet-data/tests/golden/resize.txt

A line is `height width channels filter resize crop_height crop_width pixels`: an image made by `source` below goes
through torchvision's Resize (on Pillow images, hence with antialias) and CenterCrop; `resize` is `-` where only the
crop is taken. Pixels are hexadecimal, `[height][width][channels]`.
"""
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

OUT = Path(__file__).resolve().parents[2] / "crates/dynet-data/tests/golden/resize.txt"
FILTERS = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR,
           "bicubic": InterpolationMode.BICUBIC}
# height, width, channels, filter, resize, crop
CASES = [
    (50, 37, 3, "bilinear", 16, (14, 14)), (37, 50, 3, "bicubic", 16, (14, 14)), (31, 64, 1, "bilinear", 12, (11, 9)),
    (9, 7, 3, "bilinear", 20, (16, 20)), (9, 7, 1, "bicubic", 20, (20, 15)), (40, 30, 1, "nearest", 10, (10, 10)),
    (33, 33, 3, "bilinear", 11, (11, 11)), (20, 15, 3, "bilinear", 10, (16, 13)), (12, 17, 3, "bilinear", None, (12, 17)),
    (64, 48, 1, "bicubic", 13, (10, 8)),
]


def source(height, width, channels):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((x * 5 + y * 3 + c * 61 + (x * y) % 11 * 9) % 256).astype(np.uint8)


lines = []
for height, width, channels, name, short, crop in CASES:
    pixels = source(height, width, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    steps = [Resize(short, FILTERS[name])] if short else []
    result = np.asarray(Compose([*steps, CenterCrop(crop)])(image), np.uint8)
    lines.append(f"{height} {width} {channels} {name} {short or '-'} {crop[0]} {crop[1]} {result.tobytes().hex()}\n")
OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text("".join(lines))
print(OUT, OUT.stat().st_size, "bytes")
