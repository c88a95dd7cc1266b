"""When does int8 pay? Latency and size of networks of the literature, float beside int8.

    python benchmarks/int8.py resnet20_cifar mobilenet_v2 --input 3,96,96

The networks are not trained (latency does not depend on weights): accuracies of trained ones are
what `nasctl export RUN ARCH_ID --int8` prints. All files are timed together in interleaved rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from nasctl.export.flat import flatten
from nasctl.export.formats import Card, write_onnx
from nasctl.export.int8 import LEAST_IMAGES, Quantised, latencies_of, quantise
from nasctl.latency_bench import randomise
from nasctl.latency_settings import LatencySettings
from search_spaces import network
from search_spaces.reference import reference_network


def quantised(name: str, shape: tuple[int, int, int], folder: Path) -> tuple[Path, Quantised]:
    """The float file, and what became of it."""
    architecture = reference_network(name, input_shape=shape, num_classes=10)
    module = network.build(architecture).eval()
    randomise(module)
    card = Card(
        title=name,
        version="0",
        input_shape=shape,
        classes=tuple(map(str, range(10))),
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        provenance={},
    )
    path = folder / f"{name}.onnx"
    write_onnx(flatten(module), card, path)
    images = np.random.default_rng(0).integers(0, 256, (LEAST_IMAGES, *shape), dtype=np.uint8)
    return path, quantise(path, images, output=folder / f"{name}-int8.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--input", default="3,96,96", help="channels,height,width")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    channels, height, width = map(int, arguments.input.split(","))
    with tempfile.TemporaryDirectory() as folder:
        made = {
            n: quantised(n, (channels, height, width), Path(folder)) for n in arguments.networks
        }
        paths = {n: path for n, (path, _) in made.items()}
        paths |= {f"{n} int8": q.path for n, (_, q) in made.items()}
        found = latencies_of(paths, LatencySettings(threads=arguments.threads, budget_s=20.0))
    print("| network | ms float | ms int8 | ratio | MB float | MB int8 | stays in float |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, q) in made.items():
        before, after = found[name].p50_ms, found[f"{name} int8"].p50_ms
        kept = ", ".join(q.float_operators) or "-"
        print(
            f"| {name} | {before:.3g} | {after:.3g} | {after / before:.2f} "
            f"| {q.float_bytes / 1e6:.2f} | {q.bytes / 1e6:.2f} | {kept} |"
        )


if __name__ == "__main__":
    main()
