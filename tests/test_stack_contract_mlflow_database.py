"""What nasctl relies on of MLflow's client on a database, and of the driver for PostgreSQL."""

from __future__ import annotations

import pytest

from nasctl.tracking.client import import_mlflow, open_client
from tests.e2e.servers import free_port


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its dependencies
def test_a_database_that_is_not_there_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import_mlflow(5)  # without its warnings
    from mlflow.store.db import utils

    waits: list[float] = []
    monkeypatch.setattr(utils.time, "sleep", waits.append)
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 3)
    uri = f"postgresql+psycopg://me@127.0.0.1:{free_port()}/mlflow"
    with pytest.raises(Exception, match="Connection refused"):
        utils.create_sqlalchemy_engine_with_retry(uri)
    assert waits == pytest.approx([0.1, 0.3])  # MLflow's own 10 would make 100 s
    waits.clear()
    with pytest.raises(Exception, match="Connection refused"):
        open_client(uri, 5)
    assert waits == []
