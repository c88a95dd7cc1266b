"""Layer 2: what a network costs before training, as a sum over a table of its blocks.

Params, MACs and activations of a block on an input shape are counted on the block's real module,
on torch's meta device (no memory, no arithmetic), so they cannot drift from the code. Conventions:
inference (eval mode), batch 1; `macs` are multiply-accumulates of convolutions and matrix products
only, without biases, norms, pooling and activations (as torchvision's `_ops`, half of fvcore's and
torch's "flops"); `activations` are the output elements of convolutions only (as fvcore and timm);
`params` include norms and biases, and leave out auxiliary classifiers, which are used in training
only; `model_bytes` are 4 x params (float32). An operation that is neither counted nor known to be
free raises: nothing is left out in silence.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from nasctl.arch import Architecture, Block, Cost, Shape
from nasctl.errors import NasctlError, SpecError, unknown
from nasctl.files import write_json
from nasctl.opcount import Trace, trace_module

if TYPE_CHECKING:
    from torch import nn

COUNTING = 2
"""Raise when the conventions change: tables on disk that were counted otherwise are ignored."""

BYTES_PER_PARAMETER = 4

# Which operations have MACs and which are known to have none is listed in opcount.py.


class BlockCost(NamedTuple):
    """The exact costs of one block on one input shape.

    Attributes:
        params: of what is deployed.
        params_training: with the auxiliary classifiers that training adds.
    """

    params: int
    macs: int
    activations: int
    params_training: int


def count_module(module: nn.Module, in_shape: Shape, *, name: str) -> BlockCost:
    """Counts a module by running it once on the meta device, batch 1, in eval mode.

    Args:
        module: on the meta device; is put into eval mode.
        in_shape: of the input without the batch.
        name: for the message.

    Raises:
        NasctlError: it runs an operation that is neither counted nor known to be free.
    """
    return cost_of(module, trace_module(module, in_shape, name=name))


def cost_of(module: nn.Module, trace: Trace) -> BlockCost:
    """The costs of a module whose trace has been taken."""
    side = [m for m in module.modules() if getattr(m, "training_only", False)]
    extra = sum(p.numel() for m in side for p in m.parameters())
    params = sum(p.numel() for p in module.parameters())
    macs = sum(op.macs for op in trace.ops)
    activations = sum(op.activations for op in trace.ops)
    return BlockCost(params - extra, macs, activations, params)


class BlockTable:
    """Prices architectures by summing the costs of their blocks; what is missing is counted.

    Args:
        path: a JSON file that keeps the table for later runs; None keeps it in memory. A file
            that cannot be read is ignored and written anew.
        build: from a block and its input shape to its module.
    """

    def __init__(
        self,
        path: Path | None = None,
        build: Callable[[Block, Shape], nn.Module] | None = None,
    ) -> None:
        self._path = path
        self._build = build
        self._costs: dict[tuple[Block, Shape], BlockCost] = {}
        self._stored: dict[str, BlockCost] = _read(path) if path is not None else {}
        self._unsaved = False

    def __len__(self) -> int:
        return len(self._costs)

    def price(self, architecture: Architecture) -> Cost:
        """`params`, `macs`, `activations` and `model_bytes` of a network.

        Raises:
            NasctlError: a block has an operation that cannot be counted.
        """
        costs = self._costs
        params = macs = activations = 0
        for key in architecture.placed():
            cost = costs.get(key)
            if cost is None:
                cost = self.block(*key)
            params += cost[0]
            macs += cost[1]
            activations += cost[2]
        return Cost(
            params=params,
            macs=macs,
            activations=activations,
            model_bytes=BYTES_PER_PARAMETER * params,
        )

    def block(self, block: Block, in_shape: Shape) -> BlockCost:
        """The costs of one block: from memory, else from the file, else counted.

        Raises:
            NasctlError: it has an operation that cannot be counted, or no module.
        """
        found = self._costs.get((block, in_shape))
        if found is None:
            key = self._key(block, in_shape)
            found = self._stored.get(key) if key is not None else None
            if found is None:
                found = self._count(block, in_shape)
                if key is not None:
                    self._stored[key] = found
                    self._unsaved = True
            self._costs[block, in_shape] = found
        return found

    def warm(self, pairs: Iterable[tuple[Block, Shape]]) -> None:
        """Counts what is missing of these, then saves."""
        for block, in_shape in pairs:
            self.block(block, in_shape)
        self.save()

    def _count(self, block: Block, in_shape: Shape) -> BlockCost:
        import torch

        name = f"{block.text} on input {in_shape}"
        if self._build is not None:
            with torch.device("meta"):
                module = self._build(block, in_shape)
            return count_module(module, in_shape, name=name)
        try:
            with torch.device("meta"):
                module = block.build(in_shape)
            trace = trace_module(module, in_shape, name=name)
        except NasctlError:
            raise
        except Exception as error:
            if type(block).__module__.startswith("search_spaces."):
                raise  # a bug of ours
            reason = f"{type(error).__name__}: {error}"
            raise SpecError(f"block {name}: its module fails: {reason}") from error
        given, said = trace.output.shape[1:], block.out_shape(in_shape)
        if given != said:
            raise SpecError(f"block {name}: its module gives shape {given}, out_shape says {said}")
        return cost_of(module, trace)

    def _key(self, block: Block, in_shape: Shape) -> str | None:
        """The written form of an entry; None for a block whose code cannot be identified."""
        code = _code_fingerprint(type(block).__module__)
        if self._build is not None or code is None:
            return None
        return f"{code} {list(in_shape)} {block.text}"

    def save(self) -> None:
        """Writes the file if something is new; keeps what another process added meanwhile.

        Raises:
            EnvironmentProblemError: the file cannot be written.
        """
        if self._path is None or not self._unsaved:
            return
        # The last of two simultaneous writers wins; what the other counted is counted again.
        merged = {**_read(self._path), **self._stored}
        write_json(self._path, {"counting": COUNTING, "costs": merged})
        self._unsaved = False

    def to_json(self) -> dict[str, Any]:
        """The priced blocks as plain data, for a ledger; `from_json` reads it back."""
        return {
            "counting": COUNTING,
            "blocks": [
                {"block": block.to_json(), "in_shape": list(shape), **cost._asdict()}
                for (block, shape), cost in self._costs.items()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], block_types: Mapping[str, type[Block]]) -> Self:
        """The inverse of `to_json`; the table has no file.

        Raises:
            SpecError: unknown blocks or fields.
        """
        table = cls()
        for row in data["blocks"]:
            kind = block_types.get(row["block"]["op"])
            if kind is None:
                raise SpecError(unknown("block", row["block"]["op"], block_types))
            block = kind.from_json(row["block"])
            # Ledgers of earlier versions do not have the last one; they had no auxiliary heads.
            counts = {"params_training": row["params"]} | row
            cost = BlockCost(*(counts[name] for name in BlockCost._fields))
            table._costs[block, tuple(row["in_shape"])] = cost
        return table


@functools.cache
def _code_fingerprint(module_name: str) -> str | None:
    """A hash of the source of a block's package (of its file, outside a package); None if unknown.

    Entries of a changed block are thus counted anew.
    """
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return None
    path = Path(file)
    files = sorted(path.parent.glob("*.py")) if module.__package__ else [path]
    try:
        content = b"\0".join(f.read_bytes() for f in files)
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest()[:12]


def _read(path: Path) -> dict[str, BlockCost]:
    """The entries of a file; none if it is missing, damaged or counted by other conventions."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["counting"] != COUNTING:
            return {}
        costs = {key: BlockCost(*values) for key, values in data["costs"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    numbers = (n for cost in costs.values() for n in cost)
    return costs if all(type(n) is int and n >= 0 for n in numbers) else {}
