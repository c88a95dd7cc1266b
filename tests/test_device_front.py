"""The front among trained networks: names of devices, files, constraints, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nasctl.cli_front import front
from nasctl.config import load_config
from nasctl.config.device import device_latency
from nasctl.device_file import DeviceFile
from nasctl.device_lines import gap_line
from nasctl.errors import ConfigError, EnvironmentProblemError, NasctlError, NothingFeasibleError
from nasctl.samplers.base import Known, Observation, SamplerContext
from nasctl.samplers.known_cost.outlook import Gap, expected_gap
from nasctl.space import Choices
from tests import toy
from tests.e2e.command import TABLE, TOY

LATENCY = load_config("mbv2_space").config.latency


class TestNames:
    def test_a_runtime_is_this_machine(self) -> None:
        on_node = LATENCY.model_copy(update={"node": "phone", "command": ["x"]})
        found = device_latency(on_node, "torch", ["threads=4"])
        assert (found.runtime, found.node, found.threads, found.command) == ("torch", None, 4, [])

    def test_a_bare_name_is_a_node(self) -> None:
        assert device_latency(LATENCY, "phone", []).node == "phone"

    def test_with_settings_a_name_is_only_a_name(self) -> None:
        found = device_latency(
            LATENCY, "phone", ["runtime=command", "command=[ssh, phone, '{model}']"]
        )
        assert (found.node, found.command) == (None, ["ssh", "phone", "{model}"])
        assert device_latency(LATENCY, "slow", ["node=phone", "threads=1"]).node == "phone"

    def test_a_run_without_latency_has_one_elsewhere(self) -> None:
        none = load_config("mbv2_space", ["latency=none"]).config.latency
        assert device_latency(none, "onnxruntime", []).name == "table"

    @pytest.mark.parametrize(
        ("name", "changes", "says"),
        [
            ("../x", [], "--device ../x: use letters"),
            ("x", ["threads"], "--latency threads: expected KEY=VALUE"),
            ("x", ["thread=2"], "unknown setting 'thread'; did you mean 'threads'"),
            ("x", ["threads=[1"], "--latency threads=\\[1: cannot be read"),
            ("x", ["threads=two"], "--latency threads: expected a whole number, got 'two'"),
            ("x", ["dtype=float16"], "^latency.dtype: float16 needs latency.runtime=torch"),
            ("command", [], "latency.command: missing"),
        ],
    )
    def test_mistakes_are_one_line(self, name: str, changes: list[str], says: str) -> None:
        with pytest.raises(ConfigError, match=says) as caught:
            device_latency(LATENCY, name, changes)
        assert "\n" not in str(caught.value)


class TestFiles:
    def test_it_comes_back_and_keeps_to_its_settings(self, tmp_path: Path) -> None:
        kept = DeviceFile.read(tmp_path, "x", {"threads": 1})
        kept.with_table({"a": 1}).with_measurements({"n": {"p50_ms": 2.0}}).write()
        again = DeviceFile.read(tmp_path, "x", {"threads": 1})
        assert again.table == {"a": 1}
        assert again.measurements == {"n": {"p50_ms": 2.0}}
        with pytest.raises(ConfigError, match=r"other settings \(latency.threads: 1 -> 2\)"):
            DeviceFile.read(tmp_path, "x", {"threads": 2})

    @pytest.mark.parametrize("text", ["{", "[]", '{"latency": {}}'])
    def test_damage_is_one_line(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "devices").mkdir()
        (tmp_path / "devices" / "x.json").write_text(text)
        with pytest.raises(EnvironmentProblemError, match=r"cannot be read.*remove it") as caught:
            DeviceFile.read(tmp_path, "x", {})
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of a table."""
    from nasctl.cli import cli

    folder = tmp_path_factory.mktemp("searched")
    (folder / "toy.yaml").write_text(TOY)
    (folder / "toy_table.py").write_text(TABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        done = CliRunner().invoke(
            cli, ["search", "toy.yaml", "--plugin", "toy_table", "executor=inline"]
        )
    assert done.exit_code == 0, done.output
    return folder


def call(folder: Path, *arguments: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        done = CliRunner().invoke(front, ["runs/toy", "--json", *arguments], catch_exceptions=False)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


PLUGIN = ("--plugin", "toy_table")


def raised(folder: Path, *arguments: str) -> NasctlError:
    with pytest.raises(NasctlError) as caught:
        call(folder, *arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_constraint_needs_no_training(searched: Path) -> None:
    own = call(searched)
    found = call(searched, *PLUGIN, "--constraint", "latency_ms=3", "--no-gap")
    assert found["among_trained"] is True
    assert found["device"] is None
    assert found["gap"] is None
    assert found["constraints"] == {"latency_ms": 3.0}
    assert all(m["metrics"]["latency_ms"] <= 3 for m in found["members"])
    kept = {m["arch_id"] for m in own["members"] if m["metrics"]["latency_ms"] <= 3}
    assert {m["arch_id"] for m in found["members"]} == kept
    assert set(found["left"]) == {m["arch_id"] for m in own["members"]} - kept
    assert found["reference_point"] == own["reference_point"]
    lifted = ("--constraint", "latency_ms=3", "--constraint", "latency_ms=none")
    assert call(searched, *PLUGIN, *lifted, "--no-gap")["members"] == own["members"]
    assert not (searched / "runs" / "toy" / "devices").exists()


def test_the_gap_is_told_with_what_it_rests_on(searched: Path) -> None:
    gap = call(searched, *PLUGIN, "--constraint", "latency_ms=4")["gap"]
    assert gap["expected_gain"] >= 0
    assert gap["candidates"] > 0
    assert gap["best"]["depth"] <= 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--device", "torch"), "have costs of their own and no modules"),
        (("--device", "board"), "give --address HOST:PORT, or say what it is"),
        (("--latency", "threads=2"), "--latency: of --device"),
        (("--address", "h:1"), "--address: of --device"),
        (
            ("--device", "torch", "--address", "h:1"),
            "--address h:1: --device torch is measured on this machine",
        ),
        (("--constraint", "params=nan"), "--constraint params=nan: expected METRIC=VALUE"),
        (("--constraint", "latency=3"), "unknown cost 'latency'; did you mean 'latency_ms'"),
        (("--constraint", "latency_ms=fast"), "expected METRIC=VALUE"),
    ],
)
def test_mistakes_are_one_line(searched: Path, arguments: tuple[str, ...], says: str) -> None:
    error = raised(searched, *PLUGIN, *arguments)
    assert says in str(error)
    assert error.exit_code == 2


def test_bounds_that_nothing_meets_name_the_closest(searched: Path) -> None:
    error = raised(searched, *PLUGIN, "--constraint", "latency_ms=0.5", "--no-gap")
    assert isinstance(error, NothingFeasibleError)
    assert "the closest is" in str(error)


def test_without_its_plugin_a_family_is_asked_for(searched: Path) -> None:
    error = raised(searched, "--constraint", "params=99")
    assert str(error) == "runs/toy: was searched with plugins; give --plugin toy_table"


class TestGap:
    """The look ahead, on a table whose truth is known."""

    def context(self, **changes: Any) -> SamplerContext:
        family = toy.toy_family()

        def price(choices: Choices) -> Known:
            architecture = family.decode(choices)
            costs = {"params": toy.cost(architecture)["params"]}
            return Known(id=architecture.id, costs=costs, feasible=costs["params"] <= 5000)

        values: dict[str, Any] = {
            "space": family.space,
            "directions": ("max", "min"),
            "seed": 0,
            "trials": 30,
            "objectives": ("accuracy", "params"),
            "reference_point": {"accuracy": 0.4, "params": 6000.0},
            "price": price,
        }
        return SamplerContext(**(values | changes))

    def told(self, n: int) -> list[Observation]:
        family, rng = toy.toy_family(), random.Random(1)
        configurations = list(family.space.enumerate())
        rng.shuffle(configurations)
        made = []
        for number, choices in enumerate(configurations[:n]):
            architecture = family.decode(choices)
            values = (toy.accuracy(architecture), toy.cost(architecture)["params"])
            made.append(Observation(number=number, choices=choices, values=values))
        return made

    def test_it_shrinks_as_more_is_trained(self) -> None:
        few = expected_gap(self.context(), self.told(8), proposals=5)
        many = expected_gap(self.context(), self.told(40), proposals=5)
        assert isinstance(few, Gap)
        assert isinstance(many, Gap)
        assert few.gain > many.gain >= 0
        assert few.proposals == 5
        assert few == expected_gap(self.context(), self.told(8), proposals=5)

    def test_what_cannot_be_told_has_a_reason(self) -> None:
        assert "fewer than 3" in str(expected_gap(self.context(), self.told(2), proposals=5))
        everything = expected_gap(self.context(), self.told(64), proposals=5)
        assert everything == "every candidate is trained"
        nothing = self.context(
            price=lambda c: Known(id=str(c), costs={"params": 1}, feasible=False)
        )
        assert "no candidate" in str(expected_gap(nothing, self.told(9), proposals=5))
        free = self.context(price=lambda c: Known(id=str(c), costs={}, feasible=True))
        assert "one objective" in str(expected_gap(free, self.told(9), proposals=5))

    def test_where_nothing_that_is_trained_is_allowed_there_is_nothing_to_compare(self) -> None:
        told = self.told(9)
        allowed, price = self.context(), self.context().price
        assert price is not None
        ids = {price(dict(o.choices)).id for o in told}
        context = dataclasses.replace(
            allowed,
            price=lambda c: dataclasses.replace(price(c), feasible=price(c).id not in ids),
        )
        found = expected_gap(context, told, proposals=5)
        assert "no hypervolume within the predicted costs" in str(found)

    def test_in_words(self) -> None:
        assert gap_line(None) == ""
        assert gap_line({"expected_gain": None, "reason": "x"}).endswith("not known: x")
        assert "up to 3.0% of hypervolume with 20" in gap_line(
            {"expected_gain": 0.03, "proposals": 20}
        )
