"""Reference networks end to end: trained, priced, measured and shown, and in nobody's way."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.records import RunRecords
from nasctl.trial import State
from search_spaces.reference import reference_network
from tests.e2e.command import Desk, history

REFERENCE = "reference=[resnet20_cifar]"
INLINE = ("executor=inline", "trials=3", "recipe.epochs=1", "search.window=1")


def published(desk: Desk, run: str) -> Any:
    """What a reference network came to: number, id, state, accuracy."""
    return [
        (t.number, t.arch_id, t.state.value, t.metrics.get("accuracy"))
        for t in desk.records(run).references()
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's client and SQLAlchemy's
def test_a_reference_network_beside_a_search_undisturbed_and_killed(desk: Desk) -> None:
    search = ("search", "digits.yaml", *INLINE, "latency.budget_s=1")
    desk.run(*search, "name=without", "tracking=none")
    out, err = desk.run(*search, REFERENCE)
    # Latency is an objective: equal proposals need equal latencies too.
    assert history(desk.trials("digits")) == history(desk.trials("without"))
    assert [t.cost for t in desk.trials("digits")] == [t.cost for t in desk.trials("without")]
    assert [t.choices for t in desk.trials("digits")] == [t.choices for t in desk.trials("without")]

    run = desk.folder / "runs" / "digits"
    front = json.loads((run / "front.json").read_text())
    assert front["trials"]["COMPLETE"] == 3
    (found,) = front["references"]
    expected = reference_network("resnet20_cifar", input_shape=(1, 8, 8), num_classes=10)
    assert (found["name"], found["width"], found["state"]) == ("resnet20_cifar", 1.0, "COMPLETE")
    assert (found["arch_id"], found["architecture"]) == (expected.id, expected.to_json())
    # He et al. 2016: 16, 32, 64 channels; one input channel, ten classes, shortcuts of type A.
    convolutions = 9 * (1 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms, head = 2 * (7 * 16 + 6 * 32 + 6 * 64), 64 * 10 + 10
    assert found["metrics"]["params"] == convolutions + norms + head
    assert found["metrics"]["accuracy"] > 0.3  # one epoch; chance is 0.1
    assert found["metrics"]["latency_ms_measured"] > 0
    assert found["uncertainty"]["latency_ms"]["source"] == "predicted"
    assert found["uncertainty"]["latency_ms_measured"]["source"] == "measured"
    assert found["uncertainty"]["params"]["source"] == "exact"
    profile = desk.json("profile", f"runs/digits:{expected.id[:8]}")
    assert profile["totals"]["params"] == found["metrics"]["params"]
    # Its 20 times as many parameters could only be worth it for the best accuracy.
    best = max(m["metrics"]["accuracy"] for m in front["members"])
    assert found["on_front"] is (found["metrics"]["accuracy"] > best)

    assert "○ resnet20_cifar" in out
    assert "○ reference" in out
    assert ("would be on the front" in out) is found["on_front"]
    assert f"[reference] COMPLETE  resnet20_cifar {expected.id}" in err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<section id="references">' in page
    assert '"id":"resnet20_cifar"' in page
    assert "resnet20_cifar (reference)" in (run / "report.md").read_text(encoding="utf-8")
    check_mlflow(desk, found)

    check_kill_9(desk, *search, REFERENCE, "tracking=none", "name=killed")


def check_mlflow(desk: Desk, found: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{desk.folder}/runs/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "nasctl"]
    runs = client.search_runs([experiment.experiment_id])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(children) == 4
    (tagged,) = [r for r in children if "reference" in r.data.tags]
    assert tagged.data.tags["reference"] == "resnet20_cifar"
    assert tagged.info.run_name == "reference resnet20_cifar"
    assert tagged.info.status == "FINISHED"
    assert tagged.data.tags["pareto"] == "false"
    assert tagged.data.metrics["accuracy"] == pytest.approx(found["metrics"]["accuracy"])


def check_kill_9(desk: Desk, *search: str) -> None:
    """Killed while it trains: the same command gives the same history, on Ray as well."""
    process = desk.start(*search)
    ledger = desk.folder / "runs" / "killed" / "ledger.sqlite"
    end = time.monotonic() + 120
    while not begun(ledger):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.communicate()
    (killed,) = desk.records("killed").references()
    assert killed.state is State.RUNNING
    desk.run(*search, "executor=ray")
    (again,) = desk.records("killed").references()
    assert again.attempts == 2
    assert history(desk.trials("killed")) == history(desk.trials("digits"))
    assert published(desk, "killed") == published(desk, "digits")
    assert [t.attempts for t in desk.trials("killed")] == [1] * 3


def begun(ledger: Path) -> bool:
    """Whether a reference network is being trained."""
    # Until its first commit a ledger has no tables and no version.
    with contextlib.suppress(EnvironmentProblemError):
        return bool(RunRecords(ledger.parent).references())
    return False
