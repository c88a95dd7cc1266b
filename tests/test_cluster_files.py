"""The files that a configuration names: which travel with a job, and what is said of the others."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from nasctl.cluster_files import check_size, named_files
from nasctl.cluster_submission import prepare
from nasctl.errors import ConfigError
from tests.e2e.command import DIGITS, TOY

CASES: dict[str, dict[str, Any]] = {
    "init.weights": {"init": {"weights": "FILE"}},
    "data.path": {"data": {"name": "npz", "path": "FILE"}},
    "space.options.file": {"space": {"family": "table", "options": {"file": "FILE"}}},
}


def named(value: Any, file: str) -> Any:
    if isinstance(value, dict):
        return {key: named(inner, file) for key, inner in value.items()}
    return file if value == "FILE" else value


@pytest.fixture
def desk(own_folder: Path) -> Path:
    (own_folder / "sub").mkdir()
    (own_folder / "sub" / "x.pt").write_text("content")
    (own_folder.parent / "above.pt").write_text("content")
    return own_folder


@pytest.mark.parametrize("key", CASES)
def test_a_relative_file_travels_to_the_same_place(desk: Path, key: str) -> None:
    found = named_files(named(CASES[key], "sub/x.pt"), desk)
    assert found == {PurePosixPath("sub/x.pt"): desk / "sub" / "x.pt"}
    assert named_files(named(CASES[key], "./sub/x.pt"), desk) == found


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("file", ["/data/x.pt", "~/x.pt", None])
def test_an_absolute_path_is_of_the_cluster(desk: Path, key: str, file: str) -> None:
    assert named_files(named(CASES[key], file), desk) == {}


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("none.pt", "there is no such file below"),
        ("sub", "folders do not travel; put it on the cluster and give its absolute path there"),
        ("../above.pt", "only files below .* travel; copy it there"),
    ],
)
def test_what_cannot_travel_is_one_line(desk: Path, key: str, file: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}={file}: a relative path .*{said}") as error:
        named_files(named(CASES[key], file), desk)
    assert len(error.value.problems) == 1


def test_weights_of_several_networks(desk: Path) -> None:
    (desk / "y.pt").write_text("other")
    weights = {"mobilenet_v2": "sub/x.pt", "resnet20_cifar": "y.pt", "vgg11": "/data/z.pt"}
    found = named_files({"init": {"weights": weights}}, desk)
    assert set(map(str, found)) == {"sub/x.pt", "y.pt"}
    with pytest.raises(ConfigError) as error:
        named_files({"init": {"weights": {"a": "no", "b": "neither"}}}, desk)
    assert len(error.value.problems) == 2


def test_what_a_plugin_calls_a_path_is_its_own(desk: Path) -> None:
    assert named_files({"data": {"name": "mine", "path": "some/thing"}}, desk) == {}
    assert named_files({"space": {"family": "mine", "options": {"file": "none"}}}, desk) == {}
    assert named_files({"data": {"name": "mine", "path": "sub/x.pt"}}, desk) != {}


def test_a_database_in_the_folder_of_the_job_would_be_lost(desk: Path) -> None:
    for uri in ("sqlite:///mlflow.db", "sqlite+pysqlite:///runs/mlflow.db"):
        tracking = {"name": "mlflow", "uri": uri}
        with pytest.raises(ConfigError, match=rf"^tracking.uri={uri[:6]}.*is deleted with it"):
            named_files({"tracking": tracking}, desk)
        assert named_files({"tracking": {**tracking, "name": "none"}}, desk) == {}
    for kept in ("sqlite:////runs/mlflow.db", "http://mlflow:5000", None):
        assert named_files({"tracking": {"name": "mlflow", "uri": kept}}, desk) == {}


def test_too_much_for_a_job_names_the_largest(tmp_path: Path) -> None:
    files = {}
    for name, size in (("a", 300), ("b", 800)):
        (tmp_path / name).write_bytes(b"x" * size)
        files[PurePosixPath(name)] = tmp_path / name
    check_size(files, max_bytes=1100)
    with pytest.raises(ConfigError, match=r"^b: 0 MiB; .*give its absolute path there$"):
        check_size(files, max_bytes=1099)


def prepared(config: str, *overrides: str) -> set[str]:
    made = prepare(config, overrides, [], ablate=False, fresh=False, as_json=False, root=Path.cwd())
    return {str(name) for name in made.files}


def test_a_submitted_search_brings_its_weights(desk: Path) -> None:
    overrides = ("init.weights=sub/x.pt", "reference=[resnet20_cifar]")
    assert prepared("mbv2_space", *overrides) == {"sub/x.pt"}
    with pytest.raises(ConfigError, match=r"^init.weights=no.pt: .*no such file below"):
        prepared("mbv2_space", "init.weights=no.pt", "reference=[resnet20_cifar]")


def test_two_files_for_one_place_are_refused(desk: Path) -> None:
    (desk / "sub" / "digits.yaml").write_text(DIGITS)
    (desk / "digits.yaml").write_text("weights by the name of the configuration")
    with pytest.raises(ConfigError, match=r"would both be digits.yaml on the cluster: rename one"):
        prepared("sub/digits.yaml", "init.weights=digits.yaml", "reference=[lenet5]")


def test_a_replay_trains_nothing(desk: Path) -> None:
    (desk / "toy.yaml").write_text(TOY)
    with pytest.raises(ConfigError, match=r"run it here: nasctl search toy\.yaml"):
        prepared("toy.yaml", "evaluator=replay", "replay.run=runs/a")
