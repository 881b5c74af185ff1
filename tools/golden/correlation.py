"""Correlations, cosines, effective ranks and CKA of small seeded arrays, as numpy gives them.

    python tools/golden/correlation.py        writes crates/dynet-analysis/tests/golden/correlation.json

Inputs are rounded to f32 before anything is computed, and everything is computed in f64.
"""
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "crates/dynet-analysis/tests/golden/correlation.json"


def effective_rank(matrix):
    values = np.clip(np.linalg.eigvalsh(matrix), 0, None)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def linear_cka(x, y):
    """Kornblith et al., 2019, equation 5 with centred features."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(y.T @ x) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def unbiased_hsic(k, l):
    """Song et al., 2012, equation 5."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(n)
    trace = np.trace(k @ l)
    product = one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
    return float((trace + product - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3)))


def unbiased_cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T
    return unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))


def values(array):
    return [float(f"{v:.9g}") for v in np.asarray(array, dtype=np.float64).ravel()]


def main():
    rng = np.random.default_rng(20)
    # Five channels of three images of 4 x 6: noise, a mixture, a duplicate, a negative, all far from zero.
    n, c, h, w = 3, 5, 4, 6
    maps = rng.normal(size=(n, c, h, w))
    maps[:, 1] = 0.6 * maps[:, 0] + 0.8 * maps[:, 1]
    maps[:, 2] = 3 * maps[:, 0] + 10
    maps[:, 3] = -maps[:, 1]
    maps = maps.astype(np.float32).astype(np.float64)
    columns = maps.transpose(1, 0, 2, 3).reshape(c, -1)
    r = np.corrcoef(columns)

    kernels = rng.normal(size=(4, 9)).astype(np.float32).astype(np.float64)
    units = kernels / np.linalg.norm(kernels, axis=1, keepdims=True)

    x = rng.normal(size=(12, 7))
    y = x @ rng.normal(size=(7, 20)) + 2 * rng.normal(size=(12, 20)) + 5
    x, y = (a.astype(np.float32).astype(np.float64) for a in (x, y))

    golden = {
        "maps": {"shape": [n, c, h, w], "values": values(maps), "r": values(r), "effective_rank": effective_rank(r)},
        "kernels": {"shape": [4, 9], "values": values(kernels), "cosine": values(units @ units.T)},
        "cka": {
            "x": {"shape": [12, 7], "values": values(x)},
            "y": {"shape": [12, 20], "values": values(y)},
            "linear": linear_cka(x, y),
            "unbiased": unbiased_cka(x, y),
        },
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(golden) + "\n")


main()
