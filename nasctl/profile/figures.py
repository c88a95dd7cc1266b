"""Layer 5: the figures of a network, block by block, from the operations of its real modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nasctl.arch import Block, Shape
from nasctl.blocktable import BYTES_PER_PARAMETER, BlockCost, cost_of
from nasctl.errors import ConfigError
from nasctl.opcount import trace_module
from nasctl.profile.latency import Measured
from nasctl.profile.memory import moved_elements, peak_elements
from nasctl.profile.receptive import (
    START,
    Field,
    Window,
    compose,
    follow,
    sides,
    strides,
)
from nasctl.profile.target import Target

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What one trace of a block on an input shape tells."""

    cost: BlockCost
    windows: Sequence[Window]
    field: Field | None
    peak_bytes: int
    moved_bytes: int


@dataclass(frozen=True, kw_only=True)
class BlockFigures:
    """One block in its network; float32, batch 1.

    Attributes:
        kernel: (height, width) of the largest window of its convolutions and poolings, or None.
        stride: of the block as a whole; None where no map is left.
        field: what its output sees of the network's input; None: not known.
        peak_bytes: most activations alive at once, its input included.
        moved_bytes: its weights, and every operation's operands and results, once.
        latency_ms: measured alone, or None.
        bound: `memory` or `compute`, by the roofline, where latency was asked for.
        attained: the fraction of the roof that it reaches.
    """

    block: Block
    in_shape: Shape
    out_shape: Shape
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    field: Field | None
    params: int
    params_training: int
    macs: int
    activations: int
    peak_bytes: int
    moved_bytes: int
    latency_ms: float | None = None
    bound: str | None = None
    attained: float | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A network's figures; totals are sums over blocks, the peak is the largest of theirs."""

    target: Target
    blocks: tuple[BlockFigures, ...]
    measured: Measured | None = None

    def total(self, name: str) -> int:
        """The sum of a figure over all blocks."""
        return sum(getattr(b, name) for b in self.blocks)

    @property
    def totals(self) -> dict[str, Any]:
        """As `--json` prints them."""
        params, macs = self.total("params"), self.total("macs")
        found: dict[str, Any] = {
            "params": params,
            "params_training": self.total("params_training"),
            "macs": macs,
            "activations": self.total("activations"),
            "model_bytes": BYTES_PER_PARAMETER * params,
            "model_bytes_fp16": 2 * params,
            "model_bytes_int8": params,
            "peak_activation_bytes": max((b.peak_bytes for b in self.blocks), default=0),
            "moved_bytes": self.total("moved_bytes"),
            "arithmetic_intensity": intensity(macs, self.total("moved_bytes")),
        }
        if self.measured is not None:
            found["latency_ms"] = self.measured.whole.p50_ms
        return found

    def to_json(self) -> dict[str, Any]:
        """The object of `nasctl profile --json`."""
        totals = self.totals
        return {
            "network": self.target.name,
            "arch_id": self.target.architecture.id,
            "input_shape": list(self.target.architecture.input_shape),
            "num_classes": self.target.architecture.num_classes,
            "totals": totals,
            "blocks": [
                _block_json(i, b, totals, latency=self.measured is not None)
                for i, b in enumerate(self.blocks)
            ],
            **({} if self.measured is None else {"latency": self.measured.to_json()}),
        }


def intensity(macs: int, moved_bytes: int) -> float:
    """FLOPs per byte, a multiply-accumulate being two FLOPs."""
    return 2 * macs / moved_bytes if moved_bytes else 0.0


def share(part: int, whole: int) -> float:
    """A fraction; of nothing it is 0."""
    return part / whole if whole else 0.0


def _block_json(
    index: int, b: BlockFigures, totals: dict[str, Any], *, latency: bool
) -> dict[str, Any]:
    seen = sides(b.field)
    return {
        "index": index,
        "block": b.block.to_json(),
        "in_shape": list(b.in_shape),
        "out_shape": list(b.out_shape),
        "kernel": None if b.kernel is None else list(b.kernel),
        "stride": None if b.stride is None else list(b.stride),
        "receptive_field": list(seen) if isinstance(seen, tuple) else seen,
        "params": b.params,
        "params_training": b.params_training,
        "params_share": share(b.params, totals["params"]),
        "macs": b.macs,
        "macs_share": share(b.macs, totals["macs"]),
        "activations": b.activations,
        "peak_activation_bytes": b.peak_bytes,
        "moved_bytes": b.moved_bytes,
        "arithmetic_intensity": intensity(b.macs, b.moved_bytes),
        **(
            {"latency_ms": b.latency_ms, "bound": b.bound, "attained": b.attained}
            if latency
            else {}
        ),
    }


def profile_network(target: Target, measured: Measured | None = None) -> Profile:
    """Looks at every block of a network.

    Args:
        target: the network.
        measured: its latencies and the machine's limits, or None.

    Raises:
        ConfigError: a block has no module.
        NasctlError: a block has an operation that cannot be counted.
    """
    looks: dict[tuple[Block, Shape], _Look] = {}
    found = []
    field: Field | None = START
    architecture = target.architecture
    for pair, out_shape in zip(architecture.placed(), architecture.shapes[1:], strict=True):
        look = looks.get(pair)
        if look is None:
            look = looks[pair] = _look(*pair)
        field = compose(field, look.field)
        block, in_shape = pair
        latency_ms = bound = attained = None
        if measured is not None:
            latency_ms = measured.table.block_ms(block, in_shape)
            bound, attained = measured.roof.judge(2 * look.cost.macs, look.moved_bytes, latency_ms)
        kernels = [w.kernel for w in look.windows]
        found.append(
            BlockFigures(
                block=block,
                in_shape=in_shape,
                out_shape=out_shape,
                kernel=max(kernels, key=lambda k: (max(k), min(k)), default=None),
                stride=strides(look.field),
                field=field,
                params=look.cost.params,
                params_training=look.cost.params_training,
                macs=look.cost.macs,
                activations=look.cost.activations,
                peak_bytes=look.peak_bytes,
                moved_bytes=look.moved_bytes,
                latency_ms=latency_ms,
                bound=bound,
                attained=attained,
            )
        )
    return Profile(target=target, blocks=tuple(found), measured=measured)


def _look(block: Block, in_shape: Shape) -> _Look:
    import torch

    try:
        with torch.device("meta"):
            module = block.build(in_shape)
    except NotImplementedError:
        raise ConfigError(f"block {block.op!r} has no module to look into") from None
    trace = trace_module(module, in_shape, name=f"{block.text} on input {in_shape}")
    cost = cost_of(module, trace)
    field, windows = follow(trace)
    return _Look(
        cost=cost,
        windows=windows,
        field=field,
        peak_bytes=FLOAT_BYTES * peak_elements(trace),
        moved_bytes=FLOAT_BYTES * moved_elements(trace) + BYTES_PER_PARAMETER * cost.params,
    )
