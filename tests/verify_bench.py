"""A desk with a searched table, and with a search on images, to be verified in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.records import RunRecords
from tests.faults.drive import Bench

PLUGIN = ("--plugin", "tests.verify_plugin")
TABLE = """\
defaults: [search, _self_, override tracking: none, override sampler: grid]
name: table
trials: 6
space: {family: noisy_table}
objectives: {accuracy: max, params: min}
evaluator: noisy
executor: {name: inline}
"""
IMAGES = """\
defaults: [search, _self_, override data: digits, override tracking: none, override latency: none,
           override sampler: grid]
name: images
trials: 3
data: {name: dealt}
objectives: {accuracy: max, params: min}
recipe: {epochs: 2, batch_size: 16, lr: 0.1, pad_crop: 0}
executor: {name: inline}
space:
  options:
    stem: {channels: 4}
    stages: [{channels: 4, depth: 1, stride: 2}]
    width_multiplier: {choices: [1.0, 2.0, 3.0], scope: network}
    block_type: depthwise_separable
    bottleneck_activation: linear
"""


@dataclass(frozen=True)
class VerifyBench(Bench):
    """See the module."""

    def searched(self, name: str) -> VerifyBench:
        self.write(f"{name}.yaml", {"table": TABLE, "images": IMAGES}[name])
        said = self.call("search", f"{name}.yaml", *PLUGIN, "--progress", "none")
        assert said.code == 0, said.err
        return self

    def verify(self, run: str, *more: str, code: int = 0, **environment: str) -> Any:
        """The object of `--json`."""
        said = self.call(
            "verify", f"runs/{run}", *PLUGIN, "--progress", "none", "--json", *more, **environment
        )
        assert said.code == code, said.err
        return json.loads(said.out) if code == 0 else said.error

    def verification(self, run: str) -> RunRecords:
        return RunRecords(self.folder / "runs" / run / "verify")

    def to(self, folder: Path) -> VerifyBench:
        made = super().copy(folder)
        return VerifyBench(made.folder, made.cache)


def entries(verified: dict[str, Any]) -> list[dict[str, Any]]:
    """Members, candidates and references of `verified.json`."""
    return [*verified["members"], *verified["candidates"], *verified["references"]]
