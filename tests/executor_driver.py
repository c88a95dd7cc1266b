"""A search's driver as a program of its own, for signals and kills: `FOLDER BEHAVIOUR...`.

Writes `ready` into FOLDER at the first report and `outcomes` at the end; SIGINT and SIGTERM ask
the engine to stop, as the search does.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from nasctl.errors import EnvironmentProblemError
from nasctl.executors.ray import RayExecutor
from nasctl.trial import Work
from tests.executor_jobs import RecordingEngine, ScriptedJob


class _Engine(RecordingEngine):
    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        goes_on = super().report(work, epoch, metrics)
        if len(self.reports) == 2:
            (FOLDER / "ready").touch()
        return goes_on


def main() -> int:
    engine = _Engine(sys.argv[2:], epochs=1000)
    code = 0

    def stop(number: int, frame: object) -> None:
        nonlocal code
        engine.stop_requested = True
        code = 128 + number

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        RayExecutor(workers=2, cpus=0.5).run(engine, ScriptedJob(folder=str(FOLDER)))
    except EnvironmentProblemError as error:
        print(error)
        code = error.exit_code
    lines = [f"{n} {a} {o.kind.name} {o.error}" for (n, a), o in sorted(engine.outcomes.items())]
    (FOLDER / "outcomes").write_text("\n".join(lines))
    return code


FOLDER = Path(sys.argv[1])

if __name__ == "__main__":
    sys.exit(main())
