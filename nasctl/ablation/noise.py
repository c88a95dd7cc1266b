"""Layer 4: what the trainings of a study say about the noise in its differences."""

from __future__ import annotations

from collections.abc import Sequence

from nasctl.ablation.analysis import units_of
from nasctl.ablation.study import Study
from nasctl.effects.power import Pilot, pilot
from nasctl.trial import Trial


def noise_of(study: Study, trials: Sequence[Trial]) -> Pilot | None:
    """From the seeds that all arms with two results or more have, controls left out; None if there
    are fewer than two such arms, or two such seeds."""
    units = units_of(study, trials)
    values = {
        name: found
        for name, found in units.items()
        if study.arms[name].role in ("baseline", "arm") and len(found) > 1
    }
    if len(values) < 2:
        return None
    shared = sorted(set.intersection(*(set(found) for found in values.values())))
    if len(shared) < 2:
        return None
    return pilot({name: [found[r] for r in shared] for name, found in values.items()})
