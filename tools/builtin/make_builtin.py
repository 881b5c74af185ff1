"""Makes the built-in image set of dynet-data from the whole of Fashion-MNIST.

    python3 tools/builtin/make_builtin.py [FOLDER]      FOLDER: /usr/share/datasets/fashion-mnist by default

FOLDER holds the four IDX files, gzipped, as Debian's package dataset-fashion-mnist installs them. Taken are, in the
order of the files, the first 1,200 training and the first 200 test images of each of the 10 classes.

Format of crates/dynet-data/data/fashion.gz: one gzip stream of 14,000 images of 28 x 28 bytes, first the training
images, class after class, then the test images, class after class, without labels or headers. A byte is the
difference (mod 256) between a pixel and the Paeth predictor of its left, upper and upper-left neighbours (outside: 0),
as in PNG's filter 4 (PNG specification, section 9.4): the file is 8 % smaller for it. The images themselves are
unchanged. Standard library only; the same bytes with the same version of zlib.
"""
import gzip
import hashlib
import sys
import zlib
from pathlib import Path

SIDE, CLASSES, TRAIN, TEST = 28, 10, 1200, 200
OUT = Path(__file__).resolve().parents[2] / "crates/dynet-data/data/fashion.gz"


def first_of_each_class(folder, stem, count):
    images = gzip.decompress((folder / f"{stem}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{stem}-labels-idx1-ubyte.gz").read_bytes())[8:]
    size = SIDE * SIDE
    chosen = []
    for label in range(CLASSES):
        of_class = [i for i, other in enumerate(labels) if other == label][:count]
        assert len(of_class) == count, f"{stem}: class {label} has {len(of_class)} images, wanted {count}"
        chosen += [images[i * size:(i + 1) * size] for i in of_class]
    return chosen


def paeth(left, up, corner):
    guess = left + up - corner
    to_left, to_up, to_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


def residuals(image):
    out = bytearray(len(image))
    for y in range(SIDE):
        for x in range(SIDE):
            at = y * SIDE + x
            left = image[at - 1] if x else 0
            up = image[at - SIDE] if y else 0
            corner = image[at - SIDE - 1] if x and y else 0
            out[at] = (image[at] - paeth(left, up, corner)) & 255
    return bytes(out)


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    images = first_of_each_class(folder, "train", TRAIN) + first_of_each_class(folder, "t10k", TEST)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_FILTERED)
    packed = packer.compress(b"".join(map(residuals, images))) + packer.flush()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(packed)
    print(f"{len(images)} images, pixels sha256 {hashlib.sha256(b''.join(images)).hexdigest()}")
    print(f"{len(packed)} bytes,  file   sha256 {hashlib.sha256(packed).hexdigest()}")


main()
