"""The modules of GoogLeNet (arXiv 1409.4842): branches side by side, concatenated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError
from search_spaces.blocks.chain import build_chain, canonical_chain, chain_shape
from search_spaces.blocks.conv import ConvNormActivation
from search_spaces.blocks.pool import MaxPool
from search_spaces.blocks.shapes import normalise_activations, require_odd, require_positive

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Branching(Block):
    """Chains of blocks on the same input, concatenated along the channels in their order."""

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        """The chains, by name."""
        raise NotImplementedError

    def out_shape(self, in_shape: Shape) -> Shape:
        shapes = [chain_shape(branch, in_shape) for branch in self.branches().values()]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def build(self, in_shape: Shape) -> nn.Module:
        from torch import nn

        from search_spaces.blocks.modules_branches import Branches

        return Branches(
            {
                name: nn.Sequential(
                    build_chain({str(i): block for i, block in enumerate(branch)}, in_shape)
                )
                for name, branch in self.branches().items()
            }
        )


@dataclass(frozen=True, kw_only=True)
class Inception(Branching):
    """1x1, 3x3 and 5x5 convolutions and a 3x3 max pool side by side; GoogLeNet, figure 2.

    (channels, h, w) -> (out1 + out3 + out5 + pool's, ceil(h / stride), ceil(w / stride)), in this
    order. 1x1 reductions to `reduce3` and `reduce5` channels come before the larger convolutions
    (figure 2b) unless they are 0 (figure 2a); a 1x1 projection to `pool_proj` follows the pool,
    unless it is 0: then the pooled input passes through. A convolution with 0 outputs is absent,
    and so is the pool with pool `none`. torchvision's GoogLeNet has `kernel5` 3. The last window
    of every branch strides, of the pool's branch the pool.

    Raises:
        SpecError: values that cannot be built; no branch left; a stride larger than the map.
    """

    op: ClassVar[str] = "inception"
    out1: int
    reduce3: int
    out3: int
    reduce5: int
    out5: int
    pool_proj: int
    pool: Literal["max", "none"] = "max"
    kernel5: int = 5
    stride: int = 1
    norm: Literal["batch", "none"] = "batch"
    activation: str = "relu"

    def __post_init__(self) -> None:
        normalise_activations(self, "activation")
        super().__post_init__()
        require_positive(self, "kernel5", "stride")
        require_odd(self, "kernel5")
        names = ("out1", "reduce3", "out3", "reduce5", "out5", "pool_proj")
        problems = [
            f"{self.op}.{name}: must be at least 0, got {getattr(self, name)}"
            for name in names
            if getattr(self, name) < 0
        ]
        if self.kernel5 == 1:
            problems.append(f"{self.op}.kernel5: must be at least 3, got 1")
        if self.pool == "none" and self.pool_proj:
            problems.append(f"{self.op}.pool_proj: {self.pool_proj} channels of pool none")
        if self.pool == "none" and not (self.out1 or self.out3 or self.out5):
            problems.append(f"{self.op}: no branch left: out1, out3 and out5 are 0, pool is none")
        if problems:
            raise SpecError(problems)

    def _conv(self, out: int, kernel_size: int, stride: int = 1) -> ConvNormActivation:
        return ConvNormActivation(
            out=out,
            kernel_size=kernel_size,
            stride=stride,
            norm=self.norm,
            activation=self.activation,
        )

    def branches(self) -> Mapping[str, tuple[Block, ...]]:
        found: dict[str, tuple[Block, ...]] = {}
        for name, reduce, out, kernel_size in (
            ("branch1", 0, self.out1, 1),
            ("branch3", self.reduce3, self.out3, 3),
            ("branch5", self.reduce5, self.out5, self.kernel5),
        ):
            if out:
                before = (self._conv(reduce, 1),) if reduce else ()
                found[name] = (*before, self._conv(out, kernel_size, self.stride))
        if self.pool == "max":
            after = (self._conv(self.pool_proj, 1),) if self.pool_proj else ()
            found["branch_pool"] = (MaxPool(kernel_size=3, stride=self.stride), *after)
        return found

    def canonical(self, in_shape: Shape) -> tuple[Block, ...]:
        """One branch is a chain; a 3x3 in the place of the 5x5 is in its own; no idle settings."""
        self.out_shape(in_shape)
        branches = self.branches()
        if len(branches) == 1:
            (chain,) = branches.values()
            return canonical_chain(chain, in_shape)
        own: dict[str, Any] = {}
        if not self.out3:
            own["reduce3"] = 0
        if self.kernel5 == 3 and self.out5 and not self.out3:
            own.update(reduce3=self.reduce5, out3=self.out5, out5=0)
        if not own.get("out5", self.out5):
            own.update(reduce5=0, kernel5=5)
        return (dataclasses.replace(self, **own),)
