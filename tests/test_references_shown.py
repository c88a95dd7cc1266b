"""Reference networks in the front, the report, a dry run and MLflow."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nasctl.arch import Cost
from nasctl.dryrun import Outlook
from nasctl.front import collect_entries, front_json
from nasctl.latency import LatencyTable, extend_table
from nasctl.progress import PlainProgress, front_picture, front_table
from nasctl.references import load_references, references_json
from nasctl.report import RunView, render_html, write_report
from nasctl.report.page import chart_data
from nasctl.report.view import points, reference_points, remark
from nasctl.space import SpaceSize
from nasctl.tracking.view import view_run
from nasctl.trial import State, Trial
from tests import sample_view as sample
from tests import toy
from tests.reference_samples import reference
from tests.test_latency import CALL_MS, SETTINGS, Device, build_block, measure
from tests.test_latency import Work as Timed
from tests.tracking_records import FakeRecords, make_trial


def complete(number: int, params: float, accuracy: float, **changes: Any) -> Trial:
    made = dataclasses.replace(
        reference(-1, toy.decode({"depth": 1, "width": abs(number) % 8})),
        number=number,
        state=State.COMPLETE,
        cost=Cost(params=params, latency_ms=params / 100),
        cost_intervals={"latency_ms": (params / 110, params / 90)},
        metrics={"accuracy": accuracy, "params": params, "latency_ms": params / 100},
    )
    return dataclasses.replace(made, **changes)


def judged(*references: Trial, measured: Any = None, constraints: Any = None) -> list[Any]:
    trials = [complete(0, 100.0, 0.7), complete(1, 200.0, 0.9)]
    entries = collect_entries(trials, measured={}, validation_images=1000)
    return references_json(
        references,
        entries,
        objectives={"accuracy": "max", "latency_ms": "min"},
        constraints=constraints or {},
        measured=measured or {},
        validation_images=1000,
        calibration_networks=10,
    )


class TestFrontJson:
    def test_has_the_keys_of_a_member_and_its_own(self) -> None:
        (found,) = judged(complete(-2, 150.0, 0.8, choices={"reference": "nin", "width": 1.0}))
        assert list(found) == [
            *("name", "width", "arch_id", "architecture", "metrics", "uncertainty"),
            *("state", "error", "violations", "on_front"),
        ]
        assert (found["name"], found["width"], found["state"]) == ("nin", 1.0, "COMPLETE")
        assert found["uncertainty"]["accuracy"]["n"] == 1
        assert found["uncertainty"]["latency_ms"]["source"] == "predicted"
        assert json.loads(json.dumps(found)) == found

    @pytest.mark.parametrize(
        ("params", "accuracy", "expected"),
        [
            (150.0, 0.8, True),  # between the two members
            (50.0, 0.1, True),  # cheaper than all
            (200.0, 0.9, True),  # as good as a member
            (150.0, 0.7, False),  # the first member is as accurate, and cheaper
            (201.0, 0.9, False),
        ],
    )
    def test_on_front_is_whether_it_would_be_a_member(
        self, params: float, accuracy: float, expected: bool
    ) -> None:
        (found,) = judged(complete(-2, params, accuracy))
        assert found["on_front"] is expected

    def test_the_measured_latency_decides(self) -> None:
        published = complete(-2, 150.0, 0.8)
        whole = {"p50_ms": 2.5, "interval": [2.4, 2.6], "n": 40}
        (found,) = judged(published, measured={published.arch_id: whole})
        assert not found["on_front"]
        assert found["metrics"]["latency_ms_measured"] == 2.5
        assert found["metrics"]["latency_ms"] == 1.5

    def test_over_a_constraint_it_would_never_have_been_trained(self) -> None:
        # The upper end of its interval, 150 / 90 ms, is over the bound, its latency is not.
        (found,) = judged(complete(-2, 150.0, 0.8), constraints={"latency_ms": 1.6})
        assert found["violations"] == {"latency_ms": pytest.approx((150 / 90 - 1.6) / 1.6)}
        assert not found["on_front"]
        assert remark(found) == "over constraints.latency_ms"

    def test_unfinished_and_failed_ones_have_their_costs(self) -> None:
        begun = complete(-2, 50.0, 0.0, state=State.RUNNING, metrics={})
        failed = dataclasses.replace(begun, number=-3, state=State.FAILED, error="out of\nmemory")
        found = judged(begun, failed)
        assert [r["state"] for r in found] == ["RUNNING", "FAILED"]
        assert [r["on_front"] for r in found] == [False, False]
        assert found[0]["metrics"] == {"params": 50.0, "latency_ms": 0.5}
        assert [remark(r) for r in found] == ["not finished", "failed: out of memory"]

    def test_members_and_hypervolume_are_those_of_the_search(self) -> None:
        trials = [complete(0, 100.0, 0.7), complete(1, 200.0, 0.9)]
        entries = collect_entries(trials, measured={}, validation_images=1000)
        plain = {
            "objectives": {"accuracy": "max", "latency_ms": "min"},
            "reference_point": {"accuracy": 0.0, "latency_ms": 10.0},
            "counts": {"COMPLETE": 2},
        }
        without = front_json(entries, **plain)  # type: ignore[arg-type]
        beaten = judged(complete(-2, 1.0, 1.0))
        with_one = front_json(entries, references=beaten, **plain)  # type: ignore[arg-type]
        assert beaten[0]["on_front"]
        assert with_one == {**without, "references": beaten}


class TestLatency:
    def test_more_blocks_are_on_the_scale_of_the_table(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.json"
        table = measure(Device(), path)
        more = [(Timed(us=1000 + n), (1, 28, 28)) for n in (1, 2)]
        # Another session, in which the machine is three times as slow throughout.
        slow = Device(drift=iter(lambda: 3.0, None))
        found = extend_table(
            table,
            more,
            SETTINGS,
            build_block=build_block,
            cache_path=path,
            runtime=slow,
        )
        assert [found.block_ms(*p) for p in more] == pytest.approx(
            [CALL_MS + 1.001, CALL_MS + 1.002], rel=1e-6
        )
        # What candidates are judged by is as it was.
        assert found.blocks.items() >= table.blocks.items()
        unchanged = ("canary_ms", "correction", "drift", "device")
        assert all(getattr(found, k) == getattr(table, k) for k in unchanged)
        assert LatencyTable.from_json(found.to_json()) == found
        again = Device()
        arguments: Any = {"build_block": build_block, "cache_path": path, "runtime": again}
        assert extend_table(table, more, SETTINGS, **arguments) == found
        assert again.prepared == 0  # from the cache
        assert extend_table(table, [], SETTINGS, **arguments) is table


# -- what is shown --------------------------------------------------------------------------------


def shown_references(view: RunView) -> list[dict[str, Any]]:
    """The second is better than everything, the third failed."""
    member = view.members[0]
    made = []
    for name, width, accuracy, factor in (
        ("mobilenet_v1", 0.25, 0.5, 1.1),
        ("mobilenet_v2", 0.5, 0.999, 0.5),
        ("lenet5", 1.0, None, 3.0),
    ):
        metrics = {k: v * factor for k, v in member["metrics"].items() if k != "accuracy"}
        if accuracy is not None:
            metrics["accuracy"] = accuracy
        made.append(
            {
                "name": name,
                "width": width,
                "arch_id": member["arch_id"],
                "architecture": member["architecture"],
                "metrics": metrics,
                "uncertainty": {},
                "state": "COMPLETE" if accuracy is not None else "FAILED",
                "error": None if accuracy is not None else "out of <b>memory</b>",
                "violations": {},
                "on_front": accuracy == 0.999,
            }
        )
    return made


@pytest.fixture(scope="module")
def view() -> RunView:
    plain = sample.view()
    return sample.view(front={**plain.front, "references": shown_references(plain)})


class TestShown:
    def test_the_points_of_the_search_are_what_they_were(self, view: RunView) -> None:
        assert points(view) == points(sample.view())
        found = reference_points(view)
        assert [p.name for p in found] == ["mobilenet_v1 x0.25", "mobilenet_v2 x0.5", "lenet5"]
        assert "accuracy" not in found[2].values

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_the_table_has_them_below_the_members(self, view: RunView, width: int) -> None:
        lines = front_table(view.front, width=width).splitlines()
        assert max(map(len, lines)) <= width
        at = {p.arch_id: i for i, line in enumerate(lines) for p in points(view)
              if line.startswith(p.arch_id)}  # fmt: skip
        rows = [i for i, line in enumerate(lines) if line.startswith("○ mobilenet_v1 x0.25")]
        assert rows == [max(at.values()) + 1]
        assert len(at) == len(view.members)
        remarked = (
            "○ mobilenet_v2 x0.5 would be on the front: no network of the search dominates it"
        )
        assert lines[-2] == remarked[:width]
        assert lines[-1] == "○ lenet5 failed: out of <b>memory</b>"
        assert lines[0].startswith(f"{len(view.members)} networks on the front of 33 trials")

    def test_the_picture_draws_hollow_circles(self, view: RunView) -> None:
        picture = front_picture(view.front, view.trials)
        *drawing, key = picture.splitlines()
        assert sum(line.count("○") for line in drawing) == 2  # the failed one has no accuracy
        assert key.endswith("○ reference")
        best = next(line for line in drawing if "○" in line or "●" in line)
        assert "○" in best  # 0.999 is above every member
        assert "○" not in front_picture(sample.view().front, view.trials)

    def test_the_page_draws_and_lists_them(self, view: RunView) -> None:
        data = chart_data(view, points(view))
        assert [(r["id"], r["role"]) for r in data["references"]] == [
            ("mobilenet_v1 x0.25", "reference"),
            ("mobilenet_v2 x0.5", "reference"),
            ("lenet5", "reference"),
        ]
        assert data["references"][1]["v"]["accuracy"] == 0.999
        html = render_html(view)
        assert '<i class="m-reference">' in html
        table = html[html.index('<section id="references">') :].split("</section>")[0]
        assert table.count('<th scope="row">') == 3
        assert "would be on the front" in table
        assert "out of &lt;b&gt;memory" in table
        plain = render_html(sample.view())
        assert 'id="references"' not in plain
        assert '<i class="m-reference">' not in plain

    def test_the_files_beside_the_page_have_them(self, view: RunView, tmp_path: Path) -> None:
        _, png, table, markdown = write_report(view, tmp_path)
        assert png.stat().st_size > 5000
        lines = markdown.read_text(encoding="utf-8").splitlines()
        assert sum(line.startswith("| mobilenet_v2 x0.5 (reference) | 0.9990 |") for line in lines)
        assert "- Reference network lenet5: failed: out of &lt;b>memory&lt;/b>" in lines
        assert "mobilenet" not in table.read_text(encoding="utf-8")  # trials only

    def test_lines_of_progress_do_not_count_them(self) -> None:
        console = Console(file=io.StringIO(), width=200, color_system=None)
        progress = PlainProgress(console)
        trials = [complete(0, 100.0, 0.7), complete(-1, 50.0, 0.6), complete(1, 200.0, 0.9)]
        progress.started(2, [])
        progress.front(0, 0.0)
        for trial in trials:
            progress.trial_started(dataclasses.replace(trial, state=State.RUNNING))
            if not trial.is_reference:
                progress.front(1, 0.5)
            progress.trial_ended(trial)
        assert isinstance(console.file, io.StringIO)
        _, first, second, third = console.file.getvalue().splitlines()
        assert first.startswith("[1/2] COMPLETE  #0 ")
        assert second.startswith(f"[reference] COMPLETE  mobilenet_v2 x0.25 {trials[1].arch_id}")
        assert "front" not in second
        assert third.startswith("[2/2] COMPLETE  #1 ")


def test_a_dry_run_counts_their_time_and_prices_them() -> None:
    (network,) = load_references([("lenet5", [1.0])], input_shape=(1, 28, 28), num_classes=10)
    outlook = Outlook(
        size=SpaceSize(configurations=4, networks=4, networks_exact=True, networks_error=None),
        cost_range={},
        sampled=4,
        feasible=4,
        trials=6,
        workers=2,
        trial_seconds=10.0,
        references=[(network, Cost(params=60_000.0))],
        reference_seconds=30.0,
    )
    assert outlook.total_seconds == (6 * 10 + 30) / 2
    (listed,) = outlook.to_json()["references"]
    assert listed == {
        "name": "lenet5",
        "width": 1.0,
        "arch_id": network.architecture.id,
        "cost": {"params": 60_000.0},
    }
    assert "  lenet5                   params 60,000" in outlook.to_text()
    assert "30 s of references" in outlook.to_text()


class TestTracking:
    def test_their_runs_are_tagged_and_named(self) -> None:
        trials = [make_trial(0), make_trial(1)]
        published = dataclasses.replace(
            make_trial(0), number=-1, choices={"reference": "mobilenet_v2", "width": 0.5}
        )
        records = FakeRecords(
            trials, status="FINISHED", front={trials[0].arch_id}, published=[published]
        )
        parent, *children = view_run(records)
        assert [c.name.split()[0] for c in children] == ["000", "001", "reference"]
        run = children[2]
        assert (run.name, run.key) == ("reference mobilenet_v2 x0.5", "run-1:-1")
        assert run.tags["reference"] == "mobilenet_v2"
        assert run.params["reference"] == "mobilenet_v2"
        assert run.params["width"] == "0.5"
        assert "trial" not in run.params
        # The same network as a member, but no member: its trial is.
        assert [c.tags["pareto"] for c in children] == ["true", "false", "false"]
        assert all("reference" not in c.tags for c in children[:2])
        assert parent.latest["trials_complete"] == 2
        assert "| mobilenet_v2 x0.5 | complete | " in parent.tags["mlflow.note.content"]
        alone = view_run(FakeRecords(trials, status="FINISHED", front={trials[0].arch_id}))
        assert "Reference" not in alone[0].tags["mlflow.note.content"]
        assert alone[1:] == children[:2]
