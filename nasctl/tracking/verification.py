"""Layer 3: a verification in the tracking store: names, metrics, its description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasctl.tracking.text import TAG_LENGTH, cut, redact, show_number, value_text
from nasctl.trial import State, Trial

if TYPE_CHECKING:
    from nasctl.tracking.view import RunRecords


_IN_INT8 = ("accuracy_int8_val", "accuracy_int8", "latency_ms_int8")
"""Metrics of networks, in the order of the table's columns."""


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
    in_int8 = [m for m in best if "accuracy_int8_val" in m]
    if in_int8:  # where the front is judged by int8 files
        chosen = max(in_int8, key=lambda m: m["accuracy_int8_val"])
        found[f"{prefix}accuracy_int8_best"] = chosen["accuracy_int8"]
        timed = [m["latency_ms_int8"] for m in in_int8 if "latency_ms_int8" in m]
        found |= {"latency_ms_int8_fastest": min(timed)} if timed else {}
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
        is_int8 = verified.get("front") == "int8"
        if is_int8:
            yield "The front is judged by **int8 files**, quantised from every training."
            yield ""
        more = f" | int8 validation | int8 {split} | int8 ms" if is_int8 else ""
        yield f"| network | became | searched | validation | {split}{more} | on the true front |"
        yield f"|---|---|---:|---:|---:{'|---:' * 3 if is_int8 else ''}|---:|"
        for entry in (*verified["members"], *verified["candidates"], *verified["references"]):
            now, before = entry["metrics"], entry["searched"]["metrics"]
            cells = [
                entry.get("name") or f"`{entry['arch_id']}`",
                entry["status"],
                show_number(before.get("accuracy")),
                show_number(now.get("accuracy_val")),
                show_number(now.get("accuracy")),
                *(show_number(now.get(name)) for name in (_IN_INT8 if is_int8 else ())),
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
