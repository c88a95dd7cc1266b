"""How far is an exported network from the one that was trained?

    python benchmarks/export_parity.py

Every block type and every network of the literature at reduced input, with batch norms that have
seen images, is written in each format, read back and run beside the original on random images.
Prints the largest error of a logit, relative to the largest logit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch import nn

ROOT = Path(__file__).parent.parent
IMAGES = 8

Sample = tuple[nn.Module, tuple[int, int, int]]


def errors(sample: Sample) -> dict[str, float]:
    """By format."""
    from nasctl.export.flat import flatten
    from nasctl.export.formats import SUFFIXES, WRITERS, Card
    from nasctl.export.parity import compare

    module, shape = sample
    normalisation = ((0.5,) * shape[0], (0.25,) * shape[0])
    card = Card(
        title="a sample",
        version="0",
        input_shape=shape,
        classes=("a", "b"),
        mean=normalisation[0],
        std=normalisation[1],
        provenance={},
    )
    images = np.random.default_rng(1).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
    labels = np.zeros(IMAGES, np.int64)
    found = {}
    for kind, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = write(flatten(module), card, Path(folder) / f"net{SUFFIXES[kind]}")
            found[kind] = compare(
                module, run, images, labels, normalisation=normalisation
            ).max_error
    return found


def show(title: str, names: Iterable[str], sample: Callable[[str], Sample]) -> None:
    all_found = []
    for name in names:
        found = errors(sample(name))
        all_found.append(found)
        print(f"{name:<24}", *(f"{v:>9.1e}" for v in found.values()), flush=True)
    worst = {k: max(f[k] for f in all_found) for k in all_found[0]}
    print(f"worst of {len(all_found)} {title:<12}", *(f"{k} {v:.1e}" for k, v in worst.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks-only", action="store_true", help="leave out the networks")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from search_spaces.reference import NETWORKS
    from tests.export_samples import FIELDS, block_module, network_module

    print(f"{'':<24} {'onnx':>9} {'pt2':>9} {'torch':>9}")
    show("block types", FIELDS, block_module)
    if not arguments.blocks_only:
        show("networks", NETWORKS, network_module)


if __name__ == "__main__":
    main()
