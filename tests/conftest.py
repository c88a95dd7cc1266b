from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Training and timing flush subnormals to zero, for the whole process; other tests (of
    hypothesis, which refuses to run so) need them back."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)
