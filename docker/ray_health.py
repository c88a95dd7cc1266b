"""Healthy is a Ray node that the head counts among the living; for the head, that its API says so.

Asks the head's dashboard over HTTP: `ray health-check` would import Ray, a second of processor time
on every look.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

head = os.environ.get("NASCTL_HEAD", "127.0.0.1:6379").rpartition(":")[0]
token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="utf-8").strip()
request = urllib.request.Request(
    f"http://{head}:8265/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
)
with urllib.request.urlopen(request, timeout=10) as answer:
    nodes = json.load(answer)["data"]["summary"]
alive = {node["hostname"] for node in nodes if node["raylet"].get("state") == "ALIVE"}
if socket.gethostname() not in alive:
    sys.exit(f"the head knows {len(alive)} living nodes, this one is not among them")
