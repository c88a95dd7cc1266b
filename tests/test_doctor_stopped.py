"""`nasctl doctor` on what a search leaves that was stopped at once."""

from __future__ import annotations

from pathlib import Path

from nasctl.doctor import examine
from nasctl.ledger import Ledger
from tests.doctor_bench import check


def test_a_run_without_a_trial_is_sound(tmp_path: Path) -> None:
    """Stopped while its blocks were priced: its reference point comes after that."""
    ledger = Ledger(tmp_path / "ledger.sqlite", {})
    config = {"name": "toy", "objectives": {"accuracy": "max", "params": "min"}}
    ledger.set_meta(config={**config, "tracking": {"name": "none"}}, status="INTERRUPTED", uid="u")
    ledger.close()
    found = examine(tmp_path)
    assert found.sound, [c.to_line() for c in found.checks]
    for name in ("I5", "I8"):
        one = check(found, name)
        assert (one.state, one.details) == ("not_checked", ("no trial was ever begun",))
