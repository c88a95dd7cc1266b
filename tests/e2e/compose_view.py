"""What `compose.sh` reads from outside: MLflow's API and the front of a run. Standard library only.

python compose_view.py mlflow URL RUN TRIALS [PASSWORD_FILE]
python compose_view.py counts FRONT.json TRIALS
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


def call(url: str, login: str | None, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def check_mlflow(url: str, run: str, trials: int, login: str | None = None) -> str:
    """One parent, a finished child for each trial, and the report as a file that can be fetched."""
    api = f"{url}/api/2.0/mlflow"
    listed = json.loads(call(f"{api}/experiments/search", login, {"max_results": 100}))
    ids = [e["experiment_id"] for e in listed["experiments"] if e["name"] == "nasctl"]
    found = json.loads(
        call(f"{api}/runs/search", login, {"experiment_ids": ids, "max_results": 1000})
    )["runs"]
    tags = {r["info"]["run_id"]: {t["key"]: t["value"] for t in r["data"]["tags"]} for r in found}
    parents = [r for r in found if r["info"].get("run_name") == run]
    assert len(parents) == 1, f"{len(parents)} MLflow runs are named {run}"
    parent = parents[0]["info"]["run_id"]
    children = [r for r in found if tags[r["info"]["run_id"]].get("mlflow.parentRunId") == parent]
    states = [r["info"]["status"] for r in children]
    assert states == ["FINISHED"] * trials, f"states of the children: {states}"
    assert all({"accuracy"} <= {m["key"] for m in r["data"]["metrics"]} for r in children)
    files = json.loads(call(f"{api}/artifacts/list?run_id={parent}", login))["files"]
    names = sorted(f["path"] for f in files)
    where = urllib.parse.urlencode({"run_uuid": parent, "path": "report.html"})
    page = call(f"{url}/get-artifact?{where}", login)
    assert page.lstrip().lower().startswith(b"<!doctype html")
    assert run.encode() in page
    return f"1 parent, {trials} children, files {names}, report of {len(page)} bytes"


def check_counts(front: Path, trials: int) -> str:
    """Every trial completed, none failed, none twice."""
    counts = {k: v for k, v in json.loads(front.read_text())["trials"].items() if v}
    counts.pop("REJECTED", None)
    assert counts == {"COMPLETE": trials}, f"trials: {counts}"
    return str(counts)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "counts":
        print(check_counts(Path(rest[0]), int(rest[1])))
    else:
        login = f"admin:{Path(rest[3]).read_text().strip()}" if len(rest) > 3 else None
        print(check_mlflow(rest[0], rest[1], int(rest[2]), login))
