"""Layer 3: a verification in the tracking store: names, metrics, its description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasctl.tracking.text import TAG_LENGTH, cut, redact, show_number, value_text
from nasctl.trial import State, Trial

if TYPE_CHECKING:
    from nasctl.tracking.view import RunRecords


def link_tags(verification: Mapping[str, Any]) -> dict[str, str]:
    """What leads from the parent run of a verification to that of its search."""
    return {
        "nasctl.verifies": value_text(verification["run"], TAG_LENGTH),
        "nasctl.verifies_uid": value_text(verification["run_uid"], TAG_LENGTH),
    }


def verified_metrics(verified: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics of the parent run: what became of the members, and how much luck there was."""
    if not verified:
        return {}
    found = {f"members_{k}": float(v) for k, v in verified["places"].items() if k != "unfinished"}
    found["test_evaluations"] = float(verified["test_evaluations"])
    if verified["hypervolume"] is not None:
        found["hypervolume_verified"] = float(verified["hypervolume"])
    prefix = "test_" if verified["split"] == "test" else "val_"
    best = [m["metrics"] for m in verified["members"] if "accuracy" in m["metrics"]]
    if best:  # of the member that validation says is best
        chosen = max(best, key=lambda m: m.get("accuracy_val", m["accuracy"]))
        found[f"{prefix}accuracy_best"] = chosen["accuracy"]
    for split in ("val", "test"):
        group = (verified["shrinkage"].get(split) or {}).get("members") or {}
        if group.get("mean") is not None:
            found[f"shrinkage_{split}"] = group["mean"]
    return found


def verification_note(records: RunRecords, trials: Sequence[Trial]) -> str:
    """Markdown: what was verified, promised against delivered, how to get it again."""
    return cut("\n".join(_lines(records, trials)), TAG_LENGTH)


def _lines(records: RunRecords, trials: Sequence[Trial]) -> Iterator[str]:
    done = sum(t.state is State.COMPLETE for t in trials)
    about, verified = records.verification or {}, records.verified
    yield (
        f"**Verification of `{about.get('run')}`**: {records.status.lower()}; {done} trainings on "
        "fresh seeds, one child run each. Members of the verified front are tagged `pareto = true`."
    )
    yield ""
    if verified:
        split = "test" if verified["split"] == "test" else "validation"
        yield f"| network | became | searched | validation | {split} | on the true front |"
        yield "|---|---|---:|---:|---:|---:|"
        for entry in (*verified["members"], *verified["candidates"], *verified["references"]):
            now, before = entry["metrics"], entry["searched"]["metrics"]
            cells = [
                entry.get("name") or f"`{entry['arch_id']}`",
                entry["status"],
                show_number(before.get("accuracy")),
                show_number(now.get("accuracy_val")),
                show_number(now.get("accuracy")),
                show_number(entry["probability"]),
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""
        times, count = len(verified["test_openings"]), verified["test_evaluations"]
        yield f"Members are chosen on validation. Test split opened {times} x, {count} evaluations."
        yield ""
    yield "Again, or further:"
    yield ""
    yield "```"
    yield redact(records.command)
    yield "```"
