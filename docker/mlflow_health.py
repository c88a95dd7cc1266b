"""Healthy is an MLflow server that answers its API under the name that its clients use.

`/health` says 200 while the host check refuses every client, and while the database is away.
"""

from __future__ import annotations

import base64
import os
import urllib.request
from pathlib import Path

request = urllib.request.Request(
    "http://127.0.0.1:5000/api/2.0/mlflow/experiments/search",
    data=b'{"max_results": 1}',
    headers={"Content-Type": "application/json", "Host": "mlflow:5000"},
)
if os.environ.get("MLFLOW_AUTH") == "basic":
    password = Path("/run/secrets/mlflow_password").read_text(encoding="utf-8").strip()
    login = base64.b64encode(f"admin:{password}".encode()).decode()
    request.add_header("Authorization", f"Basic {login}")
with urllib.request.urlopen(request, timeout=10) as answer:
    assert answer.status == 200
