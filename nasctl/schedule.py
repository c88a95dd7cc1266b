"""Layer 2: the learning rate over a training."""

from __future__ import annotations

import math

from nasctl.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of 0-based `step` of `steps`.

    `onecycle` (Smith & Topin 2017, arXiv:1708.07120): linear from lr / 25 to lr over the first
    `warmup` of the steps, then a cosine down to 0. `cosine` (Loshchilov & Hutter 2016,
    arXiv:1608.03983): the same without the warm-up, one half period. `wsd` (warm-up, stable,
    decay; Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392): the same
    warm-up, lr, and over the last `decay` of the steps `cooldown`.
    """
    peak = 0.0 if recipe.schedule == "cosine" else recipe.warmup * steps
    if step < peak:
        return recipe.lr * (1 / 25 + (1 - 1 / 25) * step / peak)
    if recipe.schedule == "wsd":
        length = recipe.decay * steps
        begin = max(steps - length, peak)
        return recipe.lr * cooldown((step - begin) / max(steps - begin, 1.0))
    progress = (step - peak) / max(steps - peak, 1.0)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def cooldown(progress: float) -> float:
    """The part of the stable rate that is left after `progress` (0 to 1) of a cool-down.

    1 - sqrt(progress), which Hägele et al. (section 3.2) measure to be better than a straight line
    or a cosine. 1 before the cool-down.
    """
    return 1.0 - math.sqrt(min(max(progress, 0.0), 1.0))
