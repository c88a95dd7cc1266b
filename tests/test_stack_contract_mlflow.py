"""What nasctl relies on in MLflow, checked against the installed release."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasctl.tracking.client import import_mlflow


@pytest.fixture(scope="module")
def mlflow() -> Iterator[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield import_mlflow(timeout_s=2)


@pytest.fixture(scope="module")
def client(mlflow, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        client.search_experiments()
    return client


@pytest.fixture
def run(client):
    return client.create_run("0").info.run_id


def test_the_same_metric_param_and_tag_are_stored_once(mlflow, client, run) -> None:
    entities = mlflow.entities
    for _ in range(3):
        client.log_batch(
            run,
            metrics=[entities.Metric("accuracy", 0.5, 1000, 1)],
            params=[entities.Param("p", "1")],
            tags=[entities.RunTag("t", "1")],
            synchronous=True,
        )
    assert [m.value for m in client.get_metric_history(run, "accuracy")] == [0.5]


def test_the_latest_metric_is_by_step_then_timestamp_then_value(mlflow, client, run) -> None:
    for value, timestamp, step in ((0.9, 1000, 1), (0.5, 1000, 2), (0.3, 2000, 2), (0.8, 9000, 0)):
        client.log_batch(
            run, metrics=[mlflow.entities.Metric("m", value, timestamp, step)], synchronous=True
        )
        client.log_batch(run, metrics=[mlflow.entities.Metric("m", 0.5, 1000, 2)], synchronous=True)
    assert client.get_run(run).data.metrics["m"] == 0.3


def test_a_param_never_changes_and_a_tag_does(mlflow, client, run) -> None:
    client.log_batch(run, params=[mlflow.entities.Param("p", "1")], synchronous=True)
    with pytest.raises(mlflow.exceptions.MlflowException, match="Changing param values"):
        client.log_batch(run, params=[mlflow.entities.Param("p", "2")], synchronous=True)
    for value in ("1", "2"):
        client.set_tag(run, "t", value)
    assert client.get_run(run).data.tags["t"] == "2"


def test_infinity_is_stored_as_a_number(mlflow, client, run) -> None:
    client.log_batch(
        run, metrics=[mlflow.entities.Metric("loss", float("inf"), 1000, 1)], synchronous=True
    )
    assert client.get_run(run).data.metrics["loss"] == sys.float_info.max


def test_runs_are_found_by_a_tag_and_its_prefix(client) -> None:
    ids = [
        client.create_run("0", tags={"nasctl.trial_uid": f"find-me:{n}"}).info.run_id
        for n in range(3)
    ]
    found = client.search_runs(["0"], "tags.`nasctl.trial_uid` = 'find-me:1'")
    assert [r.info.run_id for r in found] == [ids[1]]
    page = client.search_runs(["0"], "tags.`nasctl.trial_uid` LIKE 'find-me:%'", max_results=2)
    rest = client.search_runs(
        ["0"], "tags.`nasctl.trial_uid` LIKE 'find-me:%'", max_results=2, page_token=page.token
    )
    assert {r.info.run_id for r in (*page, *rest)} == set(ids)
    client.delete_run(ids[1])
    assert not client.search_runs(["0"], "tags.`nasctl.trial_uid` = 'find-me:1'")


def test_a_deleted_run_refuses_writes_with_words_we_know(mlflow, client, run) -> None:
    client.delete_run(run)
    with pytest.raises(mlflow.exceptions.MlflowException, match="'active' state"):
        client.log_batch(run, tags=[mlflow.entities.RunTag("t", "1")], synchronous=True)


def test_a_run_that_never_was_has_an_error_code(mlflow, client) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        client.log_batch("0" * 32, tags=[mlflow.entities.RunTag("t", "1")], synchronous=True)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_a_finished_run_may_run_again(client, run) -> None:
    client.set_terminated(run, "KILLED", 5000)
    client.update_run(run, status="RUNNING")
    assert client.get_run(run).info.status == "RUNNING"
    client.set_terminated(run, "FINISHED", 9000)
    info = client.get_run(run).info
    assert (info.status, info.end_time) == ("FINISHED", 9000)


def test_folders_are_not_stores_any_more(mlflow, tmp_path: Path) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException):
        mlflow.MlflowClient(tracking_uri=tmp_path.as_uri()).search_experiments()


def test_limits_are_what_we_cut_to(mlflow) -> None:
    from mlflow.utils import validation

    from nasctl.tracking.text import KEY_LENGTH, TAG_LENGTH, VALUE_LENGTH

    assert validation.MAX_ENTITY_KEY_LENGTH == KEY_LENGTH
    assert validation.MAX_PARAM_VAL_LENGTH == VALUE_LENGTH
    assert validation.MAX_TAG_VAL_LENGTH == TAG_LENGTH
    for name in ("a b", "ä.b-c_d/e:f"):
        validation._validate_metric_name(name)
    for name in ("../x", 'q"', "a//b", "/a"):
        with pytest.raises(mlflow.exceptions.MlflowException):
            validation._validate_metric_name(name)


def test_uvicorn_ends_a_worker_that_does_not_answer_in_5_s_and_can_be_told_to_wait() -> None:
    """`docker/mlflow.sh` does: the import of MLflow takes longer on a busy host."""
    import inspect

    import uvicorn

    parameters = inspect.signature(uvicorn.Config).parameters
    assert parameters["timeout_worker_healthcheck"].default == 5
    options = {name for option in uvicorn.main.params for name in option.opts}
    assert "--timeout-worker-healthcheck" in options
    script = (Path(__file__).parent.parent / "docker" / "mlflow.sh").read_text(encoding="utf-8")
    assert '--uvicorn-opts "--timeout-worker-healthcheck 120"' in script
