"""A network that trains in a moment, for tests."""

from __future__ import annotations

import torch
from torch import nn


def network(seed: int = 0, depthwise_stride: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Conv2d(16, 16, 3, depthwise_stride, 1, groups=16, bias=False),
            *(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1, bias=False)),
            *(nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        )
