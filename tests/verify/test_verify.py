"""`nasctl verify` in this process: what it trains, writes, continues and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nasctl.doctor import examine
from nasctl.errors import EnvironmentProblemError
from nasctl.kept_files import VERIFIED_JSON
from nasctl.verification import exports
from nasctl.verification.plan import FRESH
from tests.verify_bench import PLUGIN, VerifyBench, entries


def by_number(verified: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {e["choices"]["number"]: e for e in entries(verified)}


# -- what it does ---------------------------------------------------------------------------------


def test_finalists_are_trained_on_fresh_seeds_and_more_where_it_is_open(bench: VerifyBench) -> None:
    before = bench.records("table")
    searched = {t.seed for t in before.trials()}
    verified = bench.verify("table", "verify.max_seeds=5")
    trials = bench.verification("table").trials()
    assert not searched & {t.seed for t in trials}
    assert {t.seed - FRESH for t in trials} == set(range(5))
    found = by_number(verified)
    assert {n for n, e in found.items() if len(e["trainings"]) == 3} == {0, 3}  # nobody near them
    assert {n for n, e in found.items() if len(e["trainings"]) > 3} >= {4, 5}
    assert max(len(e["trainings"]) for e in found.values()) == 5
    assert found[0]["probability"] == 1.0
    assert 0.1 < found[4]["probability"] + found[5]["probability"] < 1.5
    assert verified["split"] == "val"
    assert verified["test_openings"] == []
    assert verified["places"]["members"] == len(before.front["members"])


def test_its_files_say_what_it_prints(bench: VerifyBench) -> None:
    verified = bench.verify("table")
    run = bench.folder / "runs" / "table"
    assert json.loads((run / VERIFIED_JSON).read_text()) == verified
    assert json.loads((run / "verify" / VERIFIED_JSON).read_text()) == verified
    assert (run / "promised.csv").read_text().count("\n") == 1 + len(entries(verified))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<section id="verified">' in page
    assert "kept their place" in (run / "report.md").read_text(encoding="utf-8")
    assert (run / "verify" / "config.yaml").read_text().count("max_seeds: 6")
    # The search itself is as it was.
    assert bench.records("table").status == "FINISHED"
    assert len(bench.records("table").trials()) == 6
    for folder in (run, run / "verify"):
        found = examine(folder)
        assert found.sound, [c.to_line() for c in found.checks]


def test_the_same_command_again_has_nothing_to_do(bench: VerifyBench) -> None:
    first = bench.verify("table")
    again = bench.verify("table")
    changing = ("seconds",)
    for said in (first, again):
        for key in changing:
            said.pop(key)
    assert first == again


def test_more_seeds_may_be_allowed_later_and_nothing_else(bench: VerifyBench) -> None:
    bench.verify("table", "verify.seeds=2", "verify.max_seeds=2")
    before = bench.verification("table").trials()
    more = bench.verify("table", "verify.seeds=2", "verify.max_seeds=4")
    trials = bench.verification("table").trials()
    assert [t.arch_id for t in trials[: len(before)]] == [t.arch_id for t in before]
    assert len(trials) > len(before)
    assert max(len(e["trainings"]) for e in entries(more)) == 4
    error = bench.verify("table", "verify.seeds=3", "verify.max_seeds=4", code=2)
    assert "runs/table/verify" in error
    said = bench.call("verify", "runs/table", *PLUGIN, "verify.seeds=2", "verify.max_seeds=3")
    assert said.code == 2
    assert "verify.max_seeds: 4 -> 3 (may be raised, not lowered)" in said.err
    assert "--fresh moves that verification aside" in said.err


def test_fresh_moves_the_old_one_aside(bench: VerifyBench) -> None:
    bench.verify("table", "verify.seeds=2", "verify.max_seeds=2")
    verified = bench.verify("table", "--fresh")
    run = bench.folder / "runs" / "table"
    assert (run / "verify.old1" / "ledger.sqlite").exists()
    assert verified["settings"]["seeds"] == 3
    assert json.loads((run / VERIFIED_JSON).read_text()) == verified


def test_at_verifies_the_best_member_within_a_budget_alone(bench: VerifyBench) -> None:
    (member,) = bench.verify("table", "--at", "params=30")["members"]
    front = bench.records("table").front["members"]
    within = [m for m in front if m["metrics"]["params"] <= 30]
    assert member["arch_id"] == max(within, key=lambda m: m["metrics"]["accuracy"])["arch_id"]
    assert len(bench.verification("table").trials()) == 3


def test_a_limit_of_near_candidates(bench: VerifyBench) -> None:
    everybody = entries(bench.verify("table", "verify.near=0"))
    assert {e["role"] for e in everybody} == {"member"}


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(bench: VerifyBench) -> None:
    said = bench.call("verify", "runs/table", *PLUGIN, "--dry-run", "verify.seeds=4")
    assert said.code == 0
    assert "on the front" in said.out
    assert "of 3 epochs on 1 worker" in said.out
    assert "there is no test split" in said.out
    outlook = bench.verify("table", "--dry-run")
    count = len(outlook["finalists"])
    assert outlook["trainings"] == {"min": 3 * count, "max": 6 * count}
    assert outlook["seconds"]["min"] <= outlook["seconds"]["max"]
    assert not (bench.folder / "runs" / "table" / "verify").exists()


# -- the test split -------------------------------------------------------------------------------


def without_test(verified: dict[str, Any]) -> dict[str, Any]:
    """Everything that must not depend on test labels."""
    return {
        "members": [e["arch_id"] for e in verified["members"]],
        "optimistic": verified["optimistic"],
        "attainment": verified["attainment"],
        "each": {
            e["arch_id"]: (
                e["status"], e["probability"], e["reason"], e["seed"], e["metrics"]["accuracy_val"],
                [t["accuracy_val"] for t in e["trainings"]],
            )
            for e in entries(verified)
        },
    }  # fmt: skip


def test_other_test_labels_change_test_accuracies_and_nothing_else(
    trained: VerifyBench, images: VerifyBench, tmp_path: Path
) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=3", "verify.export=false")
    one = trained.verify("images", *settings)
    other = images.to(tmp_path / "other").verify("images", *settings, VERIFY_TEST="3")
    accuracies = [[m["metrics"]["accuracy"] for m in v["members"]] for v in (one, other)]
    assert min(accuracies[0]) > max(accuracies[1])  # true labels against dealt ones
    order = [sorted(without_test(v)["members"]) for v in (one, other)]
    assert order[0] == order[1]
    facts = [{**without_test(v), "members": None} for v in (one, other)]
    assert facts[0] == facts[1]


def test_openings_of_the_test_split_are_counted_also_after_fresh(trained: VerifyBench) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=2", "verify.export=false")
    first = trained.verify("images", *settings)
    (opening,) = first["test_openings"]
    count = len(trained.verification("images").trials())
    assert (opening["evaluations"], opening["folder"]) == (count, "verify")
    assert opening["command"].startswith("nasctl verify runs/images")
    assert first["test_evaluations"] == count
    again = trained.verify("images", *settings)  # nothing to train: nothing is opened
    assert again["test_openings"] == first["test_openings"]
    fresh = trained.verify("images", *settings, "--fresh")
    assert [o["folder"] for o in fresh["test_openings"]] == ["verify.old1", "verify"]
    assert fresh["test_evaluations"] == 2 * count


def test_verified_weights_are_exported_with_what_is_known_of_them(trained: VerifyBench) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=2")
    verified = trained.verify("images", *settings, "verify.export=false")
    best = verified["members"][0]
    chosen = max(best["trainings"], key=lambda t: t["accuracy_val"])
    assert best["seed"] == chosen["seed"]
    said = trained.call(
        "export", "runs/images", best["arch_id"], *PLUGIN, "-o", "net.onnx", "--json"
    )
    assert said.code == 0, said.err
    provenance = json.loads(said.out)["provenance"]
    assert provenance["seed"] == chosen["seed"]
    assert provenance["metrics"]["accuracy"] == chosen["accuracy_val"]
    assert provenance["metrics"]["test_accuracy"] == chosen["test_accuracy"]
    assert provenance["metrics"]["params"] == best["metrics"]["params"]
    assert provenance["verified"]["on_front"] is True
    # Other weights than those that were verified are never handed out without a word.
    run = trained.folder / "runs" / "images"
    shutil.rmtree(run / "verify" / "weights")
    export = ("export", "runs/images", best["arch_id"], *PLUGIN, "-o", "net.onnx")
    said = trained.call(*export)
    assert (said.code, "the verified weights are gone" in said.err) == (4, True)
    (run / "verified.json").write_text('{"members":')
    said = trained.call(*export)
    assert (said.code, "verified.json: cannot be read; nasctl verify" in said.err) == (4, True)
    (run / "verified.json").unlink()
    said = trained.call(*export)
    assert (said.code, said.out.splitlines()[-1]) == (0, "weights of seed 0, of the search")


def test_finalists_are_judged_as_files_too(trained: VerifyBench) -> None:
    settings = ("verify.seeds=2", "verify.max_seeds=2")
    verified = trained.verify("images", *settings)
    for entry in entries(verified):
        files, chosen = entry["delivered"], entry["seed"]
        (own,) = [t for t in entry["trainings"] if t["seed"] == chosen]
        assert files["seed"] == chosen
        assert files["exported_accuracy"] == pytest.approx(own["test_accuracy"], abs=0.04)
        assert 0 <= files["int8_accuracy"] <= 1
        assert files["exported_error"] < 1e-4
        assert files["int8_bytes"] > 0
    count = len(trained.verification("images").trials())
    assert verified["test_evaluations"] == count + 2 * len(entries(verified))
    head = (trained.folder / "runs" / "images" / "promised.csv").read_text().split("\n")[0]
    assert "exported_accuracy,int8_accuracy,exported_bytes,int8_bytes" in head
    again = trained.verify("images", *settings)
    assert again["test_openings"] == verified["test_openings"]


def test_what_cannot_be_exported_or_quantised_is_said_and_ends_nothing(
    trained: VerifyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise EnvironmentProblemError("an operator that the runtime lacks")

    command = ("verify", "runs/images", *PLUGIN, "verify.seeds=2", "verify.max_seeds=2",
               "--progress", "plain", "--json")  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(exports, "quantise", broken)
        said = trained.call(*command)
    assert said.code == 0
    assert "was not quantised: an operator that the runtime lacks" in said.err
    member = json.loads(said.out)["members"][0]["delivered"]
    assert 0 <= member["exported_accuracy"] <= 1
    assert "int8_accuracy" not in member
    with monkeypatch.context() as patched:
        patched.setattr(exports, "export_network", broken)
        said = trained.call(*command, "--fresh")
    assert said.code == 0
    assert "was not exported: an operator that the runtime lacks" in said.err
    member = json.loads(said.out)["members"][0]["delivered"]
    assert member["error"] == "an operator that the runtime lacks"
    assert "exported_accuracy" not in member


# -- other commands ------------------------------------------------------------------------------


def test_other_commands_know_the_folder(bench: VerifyBench) -> None:
    verified = bench.verify("table", "verify.seeds=2", "verify.max_seeds=2")
    folder = "runs/table/verify"
    shown = bench.call("front", folder, "--json")
    assert json.loads(shown.out)["members"] == verified["members"]
    assert "kept" in bench.call("front", folder).out
    assert bench.call("front", folder, "--at", "params=3").code == 2
    assert bench.call("report", folder).out.startswith("runs/table/report.html")
    said = bench.call("export", folder, verified["members"][0]["arch_id"], *PLUGIN)
    assert (said.code, "export from its search" in said.error) == (2, True)
    doctor = bench.call("doctor", folder)
    assert doctor.code == 0, doctor.out


def test_the_doctor_sees_a_result_that_is_not_that_of_the_trainings(bench: VerifyBench) -> None:
    bench.verify("table", "verify.seeds=2", "verify.max_seeds=2")
    path = bench.folder / "runs" / "table" / "verify" / VERIFIED_JSON
    stored = json.loads(path.read_text())
    stored["members"][0]["metrics"]["accuracy_val"] += 0.01
    stored["candidates"].append(stored["members"].pop())
    path.write_text(json.dumps(stored))
    found = {c.id: c for c in examine(path.parent).checks}
    assert found["I5"].state == "violated"
    assert "its trainings say" in found["I5"].details[0]
    assert "belongs to the verified front" in found["I5"].details[1]
    path.unlink()
    found = {c.id: c for c in examine(path.parent).checks}
    assert "verified.json is missing" in found["I5"].details[0]
