"""Networks with the names, the structure and the epsilons of torchvision's, written for tests: its
package does not import beside the CPU build of torch. The tables are those of the papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_bn(  # noqa: PLR0917 - as in a table
    a: int, b: int, k: int, stride: int, groups: int, act: nn.Module | None, eps: float
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(b, eps=eps),
    ]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class Residual(nn.Module):
    """A basic block, or a bottleneck with the stride on its 3x3 convolution."""

    def __init__(self, a: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        b = width * 4 if bottleneck else width
        shapes = [(a, width, 1), (width, width, 3), (width, b, 1)]
        if not bottleneck:
            shapes = [(a, width, 3), (width, width, 3)]
        strides = [1, stride, 1] if bottleneck else [stride, 1]
        self.count = len(shapes)
        for i, ((c, d, k), s) in enumerate(zip(shapes, strides, strict=True), start=1):
            setattr(self, f"conv{i}", nn.Conv2d(c, d, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(d))
        self.downsample = None
        if stride != 1 or a != b:
            self.downsample = nn.Sequential(
                nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    def __init__(self, depths: Sequence[int], *, bottleneck: bool, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        a = 64
        for i, depth in enumerate(depths, start=1):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 1 and j == 0 else 1
                blocks.append(Residual(a, 32 * 2**i, stride, bottleneck=bottleneck))
                a = 32 * 2**i * (4 if bottleneck else 1)
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(a, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


def divisible(value: float) -> int:
    found = max(8, int(value + 4) // 8 * 8)
    return found + 8 if found < 0.9 * value else found


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu())
        return x * nn.functional.hardsigmoid(scale)


class Inverted(nn.Module):
    """Of V3, its layers in `block`; of V2, in `conv`, where the projection is not nested."""

    def __init__(  # noqa: PLR0917 - as in a table
        self, a: int, mid: int, b: int, k: int, stride: int, act: type[nn.Module],
        *, se: bool, eps: float, v2: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        if mid != a:
            layers.append(conv_bn(a, mid, 1, 1, 1, act(), eps))
        layers.append(conv_bn(mid, mid, k, stride, mid, act(), eps))
        if se:
            layers.append(SqueezeExcitation(mid))
        projection = conv_bn(mid, b, 1, 1, 1, None, eps)
        layers += list(projection) if v2 else [projection]
        setattr(self, "conv" if v2 else "block", nn.Sequential(*layers))
        self.name, self.adds = "conv" if v2 else "block", stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        y = getattr(self, self.name)(x)
        return x + y if self.adds else y


class MobileNet(nn.Module):
    def __init__(self, features: Sequence[nn.Module], classifier: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(classes: int) -> MobileNet:
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    features: list[nn.Module] = [conv_bn(3, 32, 3, 2, 1, nn.ReLU6(), 1e-5)]
    a = 32
    for t, c, n, s in rows:
        for i in range(n):
            stride = s if i == 0 else 1
            features.append(Inverted(a, a * t, c, 3, stride, nn.ReLU6, se=False, eps=1e-5, v2=True))
            a = c
    features.append(conv_bn(a, 1280, 1, 1, 1, nn.ReLU6(), 1e-5))
    return MobileNet(features, [nn.Dropout(0.2), nn.Linear(1280, classes)])


RE, HS = nn.ReLU, nn.Hardswish
SMALL = [(3, 16, 16, True, RE, 2), (3, 72, 24, False, RE, 2), (3, 88, 24, False, RE, 1),
         (5, 96, 40, True, HS, 2), (5, 240, 40, True, HS, 1), (5, 240, 40, True, HS, 1),
         (5, 120, 48, True, HS, 1), (5, 144, 48, True, HS, 1), (5, 288, 96, True, HS, 2),
         (5, 576, 96, True, HS, 1), (5, 576, 96, True, HS, 1)]  # fmt: skip
LARGE = [(3, 16, 16, False, RE, 1), (3, 64, 24, False, RE, 2), (3, 72, 24, False, RE, 1),
         (5, 72, 40, True, RE, 2), (5, 120, 40, True, RE, 1), (5, 120, 40, True, RE, 1),
         (3, 240, 80, False, HS, 2), (3, 200, 80, False, HS, 1), (3, 184, 80, False, HS, 1),
         (3, 184, 80, False, HS, 1), (3, 480, 112, True, HS, 1), (3, 672, 112, True, HS, 1),
         (5, 672, 160, True, HS, 2), (5, 960, 160, True, HS, 1),
         (5, 960, 160, True, HS, 1)]  # fmt: skip


def mobilenet_v3(rows: Sequence[tuple[int, int, int, bool, type[nn.Module], int]], hidden: int,
                 classes: int) -> MobileNet:  # fmt: skip
    features: list[nn.Module] = [conv_bn(3, 16, 3, 2, 1, HS(), 1e-3)]
    a = 16
    for k, mid, b, se, act, stride in rows:
        features.append(Inverted(a, mid, b, k, stride, act, se=se, eps=1e-3))
        a = b
    features.append(conv_bn(a, 6 * a, 1, 1, 1, HS(), 1e-3))
    head = [nn.Linear(6 * a, hidden), HS(), nn.Dropout(0.2), nn.Linear(hidden, classes)]
    return MobileNet(features, head)


def make(name: str, classes: int) -> nn.Module:
    """A network of that name with weights and statistics drawn at random, in evaluation mode."""
    torch.manual_seed(0)
    model: nn.Module
    if name.startswith("resnet"):
        depths = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3),
                  "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}[name]  # fmt: skip
        is_deep = name not in ("resnet18", "resnet34")
        model = ResNet(depths, bottleneck=is_deep, classes=classes)
    elif name == "mobilenet_v2":
        model = mobilenet_v2(classes)
    else:
        rows, hidden = (SMALL, 1024) if name.endswith("small") else (LARGE, 1280)
        model = mobilenet_v3(rows, hidden, classes)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.2, 0.2)
                layer.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.0005, 1.5)  # type: ignore[union-attr]
    return model.eval()
