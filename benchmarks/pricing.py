"""How many architectures of the packaged space are priced per second on one core.

    python benchmarks/pricing.py [--number 20000] [--rounds 5]

"price" sums a network's costs from the warm block table; "decode + price" starts from choices.
Printed are the median, the slowest and the fastest of some rounds over the same random networks.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from nasctl.blocktable import BlockTable
from nasctl.space import Family
from search_spaces.staged import staged

CONFIG = Path(__file__).parent.parent / "conf" / "mbv2_space.yaml"


def packaged_family() -> Family:
    """The space of conf/mbv2_space.yaml on its 28x28 grey images."""
    options = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["space"]["options"]
    return staged(input_shape=(1, 28, 28), num_classes=10, **options)


def measure(name: str, work: Callable[[], None], number: int, rounds: int) -> None:
    """Prints how often per second `work`, which does `number` things, did one."""
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        rates.append(number / (time.perf_counter() - start))
    print(
        f"{name:16} {statistics.median(rates):9,.0f} per second "
        f"({min(rates):,.0f} to {max(rates):,.0f}, n = {rounds} x {number:,})"
    )


def main() -> None:
    """Draws networks, warms the table, measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    family, table, rng = packaged_family(), BlockTable(), random.Random(0)
    assert family.blocks is not None
    pairs = list(family.blocks())
    start = time.perf_counter()
    table.warm(pairs)
    print(f"{len(pairs)} blocks counted in {time.perf_counter() - start:.1f} s (torch import too)")
    drawn = [family.space.sample(rng) for _ in range(arguments.number)]
    networks = [family.decode(choices) for choices in drawn]

    def price() -> None:
        for network in networks:
            table.price(network)

    def decode_and_price() -> None:
        for choices in drawn:
            table.price(family.decode(choices))

    measure("price", price, arguments.number, arguments.rounds)
    measure("decode + price", decode_and_price, arguments.number, arguments.rounds)


if __name__ == "__main__":
    main()
