"""How many architectures are priced per second on one core, in every ready space.

    pip install torchinfo  # for the comparison; left out without it
    python benchmarks/pricing.py [SPACE ...] [--number 20000] [--rounds 5]

"price" sums a network's costs from the warm block table; "decode + price" starts from choices;
"torchinfo" builds the same networks on the meta device and counts each of them, as one does without
a table. Medians of some rounds over the same random networks. At the end every network of
macro_skip_space is priced.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from nasctl.arch import Architecture
from nasctl.blocktable import BlockTable
from nasctl.space import Family
from search_spaces.network import build
from search_spaces.staged import staged

CONF = Path(__file__).parent.parent / "conf"
SPACES = sorted(path.stem for path in CONF.glob("*_space.yaml"))
BUILT = 10
"""Networks that torchinfo is given: one takes as long as thousands from the table."""


def ready_family(name: str) -> Family:
    """A packaged space on the images that it is meant for."""
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    options = yaml.safe_load(text)["space"]["options"]
    if "imagenet" in name:
        return staged(input_shape=(3, 224, 224), num_classes=1000, **options)
    return staged(input_shape=(1, 28, 28), num_classes=10, **options)


def rate(work: Callable[[], None], number: int, rounds: int) -> float:
    """How often per second `work`, which does `number` things, does one: the median of rounds."""
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        rates.append(number / (time.perf_counter() - start))
    return statistics.median(rates)


def torchinfo_counts(networks: Sequence[Architecture], table: BlockTable) -> None:
    """Builds and counts by torchinfo; the parameters have to be those of the table."""
    import torch
    import torchinfo

    for network in networks:
        with torch.device("meta"):
            module = build(network).eval()
        found = torchinfo.summary(module, (1, *network.input_shape), device="meta", verbose=0)
        assert found.total_params == table.price(network)["params"]


def measure(name: str, number: int, rounds: int) -> None:
    """Prints one line about a space."""
    family, table, rng = ready_family(name), BlockTable(), random.Random(0)
    assert family.blocks is not None
    pairs = list(family.blocks())
    table.warm(pairs)
    drawn = [family.space.sample(rng) for _ in range(number)]
    networks = [family.decode(choices) for choices in drawn]

    def price() -> None:
        for network in networks:
            table.price(network)

    def decode_and_price() -> None:
        for choices in drawn:
            table.price(family.decode(choices))

    beside = "-"
    if importlib.util.find_spec("torchinfo") is not None:
        beside = f"{rate(lambda: torchinfo_counts(networks[:BUILT], table), BUILT, rounds):.1f}"
    both = rate(price, number, rounds), rate(decode_and_price, number, rounds)
    print(f"{name:20} {len(pairs):6} {both[0]:10,.0f} {both[1]:15,.0f} {beside:>10}", flush=True)


def main() -> None:
    """Measures the spaces, then prices a whole one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spaces", nargs="*", default=SPACES, metavar="SPACE")
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'per second':20} {'blocks':>6} {'price':>10} {'decode + price':>15} {'torchinfo':>10}")
    for name in arguments.spaces:
        measure(name, arguments.number, arguments.rounds)
    family, table = ready_family("macro_skip_space"), BlockTable()
    start = time.perf_counter()
    seen = {family.decode(choices) for choices in family.space.enumerate()}
    for network in seen:
        table.price(network)
    seconds = time.perf_counter() - start
    print(f"all {len(seen):,} networks of macro_skip_space: {seconds:.1f} s with a cold table")


if __name__ == "__main__":
    main()
