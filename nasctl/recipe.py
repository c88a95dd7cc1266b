"""Layer 1: how a network is trained. Plain settings; part of every evaluation's cache key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from nasctl.arch import Scalar
from nasctl.fields import normal_number

Schedule = Literal["onecycle", "cosine", "wsd"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training settings of one evaluation; the defaults are the packaged `recipe=default`.

    Results depend on the number of `threads`, so it is part of the recipe. `epochs` is the
    horizon of the schedule: a run cut short has not followed a shorter schedule.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step.
        lr: peak learning rate, for `batch_size` images.
        schedule: `onecycle` (linear warm-up over `warmup`, then cosine to ~0), `cosine`, or `wsd`
            (warm-up, stable, then a decay to ~0 over `decay`), which can be cut short anywhere.
        warmup: fraction of all steps spent warming up.
        decay: fraction of all steps at the end over which `wsd` decays; others decay throughout.
        momentum: Nesterov momentum of SGD.
        weight_decay: L2 on weights of rank 2 and more, not on norms and biases.
        label_smoothing: in [0, 1).
        grad_clip: maximum gradient norm; 0 is off.
        pad_crop: reflect-pad by this many pixels, then crop at random; 0 is off.
        flip: mirror left-right at random.
        amp: `auto` (bfloat16 where the hardware has it), `bf16` or `off`.
        channels_last: memory format of activations.
        compile: torch.compile the training step.
        threads: torch intra-op threads of one training on CPU.
        trainer: `sgd`, or a name from a plugin's TRAINERS.
    """

    epochs: int = 3
    batch_size: int = 64
    lr: float = 0.4
    schedule: Schedule = "onecycle"
    warmup: float = 0.25
    decay: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    grad_clip: float = 5.0
    pad_crop: int = 0
    flip: bool = False
    amp: Literal["auto", "bf16", "off"] = "auto"
    channels_last: bool = True
    compile: bool = False
    threads: int = 1
    trainer: str = "sgd"

    def to_json(self) -> dict[str, Scalar]:
        """Every setting, numbers normalised: what the cache key is made of."""
        return {k: normal_number(v) for k, v in asdict(self).items()}  # type: ignore[misc]  # all scalars
