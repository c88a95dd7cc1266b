"""The torch modules of LeNet-5 and AlexNet that torch does not have. Imported by `Block.build`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AcrossChannelsNorm(nn.Module):
    """x / (k + alpha * s)^beta with s the sum of x^2 over the `size` (odd) nearest channels."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        squares = (x * x).flatten(2).unsqueeze(1)  # (N, 1, C, H W): channels as a side of a map
        means = nn.functional.avg_pool2d(squares, (self.size, 1), 1, (self.size // 2, 0))
        total = (means * self.size).view_as(x)
        return x / (self.k + self.alpha * total) ** self.beta


class ScaledTanh(nn.Module):
    """1.7159 tanh(2 x / 3): its value at +-1 is +-1, where its second derivative is largest."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return 1.7159 * torch.tanh(x * (2 / 3))


class Subsampling(nn.Module):
    """The sum of each window times the channel's coefficient, plus its bias.

    Both begin uniform in +-2.4 / fan_in, as all weights of LeNet-5 (appendix A).
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 2.4 / self.kernel_size**2
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // kernel_size, W // kernel_size)."""
        means = nn.functional.avg_pool2d(x, self.kernel_size)
        scale = (self.weight * self.kernel_size**2).view(-1, 1, 1)
        return means * scale + self.bias.view(-1, 1, 1)


class PartialConv(nn.Module):
    """A convolution whose output maps see only some of the input maps.

    One grouped convolution for each run of output maps that see equally many: nothing is computed
    that the connections leave out.

    Args:
        connections: for each output map the input maps that it sees.
        kernel_size: without padding, stride 1.
    """

    def __init__(self, connections: Sequence[Sequence[int]], kernel_size: int) -> None:
        super().__init__()
        self.runs: list[list[Sequence[int]]] = []
        for seen in connections:
            if not self.runs or len(self.runs[-1][0]) != len(seen):
                self.runs.append([])
            self.runs[-1].append(seen)
        self.convs = nn.ModuleList(
            nn.Conv2d(len(run) * len(run[0]), len(run), kernel_size, groups=len(run))
            for run in self.runs
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, len(connections), H', W')."""
        maps = x.split(1, 1)  # type: ignore[no-untyped-call]  # torch's own lacks types
        outs = [
            conv(torch.cat([maps[i] for seen in run for i in seen], 1))
            for run, conv in zip(self.runs, self.convs, strict=True)
        ]
        return torch.cat(outs, 1)


class EuclideanRbf(nn.Module):
    """Class scores: minus the squared distance to each class's fixed code, over sqrt(features).

    Args:
        codes: one of +-1 for every class; kept as a buffer.
    """

    codes: Tensor

    def __init__(self, codes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.features = len(codes[0])
        self.register_buffer("codes", torch.tensor(codes, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, classes)."""
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |c|^2 is the number of features.
        scores = 2 * (x @ self.codes.t()) - (x * x).sum(1, keepdim=True) - self.features
        return scores / math.sqrt(self.features)
