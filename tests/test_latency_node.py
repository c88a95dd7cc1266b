"""`latency.node`: what travels to the device, what comes back, and what is refused before."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nasctl import latency_runtimes, runflow
from nasctl.config.load import load_ablation, load_config
from nasctl.config.resume import config_diff
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.executors.base import Announce, Executor
from nasctl.executors.inline import InlineExecutor
from nasctl.executors.place import AfterPlugins, ExecutorPlace
from nasctl.latency import LatencySettings, LatencyTable, extend_table, measure_table
from nasctl.latency_cache import locked
from nasctl.ledger import Ledger
from nasctl.plugins import load_plugins
from nasctl.prepare import Problem, load_problem
from nasctl.pricing import FamilyBuilder, Tables, make_pricer, network_builder
from nasctl.space import Family
from search_spaces.blocks import BLOCKS
from tests.test_latency import (
    PAIRS,
    SETTINGS,
    Device,
    Work,
    build_block,
    build_network,
    random_networks,
)

BOARD = "Board SoC (1/2/3)"


class Cluster(InlineExecutor):
    """A node with another processor: what runs there is pickled, and so is what comes back."""

    def __init__(self, processor: str = BOARD) -> None:
        super().__init__()
        self.processor = processor
        self.calls: list[tuple[str | None, bool]] = []

    def run_exclusive(
        self,
        fn: Callable[[Announce], Any],
        resource: str | None = None,
        *,
        announce: Announce = lambda text: None,
        alone: bool = True,
    ) -> Any:
        self.calls.append((resource, alone))
        if resource is None:
            return fn(announce)
        sent = pickle.dumps(fn)
        with pytest.MonkeyPatch.context() as there:
            there.setattr(latency_runtimes, "_processor", lambda: self.processor)
            return pickle.loads(pickle.dumps(pickle.loads(sent)(announce)))


def place_of(executor: Executor, node: str | None = "board") -> ExecutorPlace:
    return ExecutorPlace(executor=executor, node=node, plugins={})


def table_of(executor: Executor, cache: Path | None = None, **changes: Any) -> LatencyTable:
    arguments: dict[str, Any] = {
        "build_block": build_block,
        "build_network": build_network,
        "cache_path": cache,
        "runtime": Device(),
        "place": place_of(executor),
    }
    return measure_table(PAIRS, random_networks(60, 1), SETTINGS, **(arguments | changes))


class TestWhereItIsMeasured:
    def test_a_table_is_of_the_node(self) -> None:
        cluster, told = Cluster(), list[str]()
        table = table_of(cluster, progress=told.append)
        # Asked beside trainings, measured alone.
        assert cluster.calls == [("latency_device:board", False), ("latency_device:board", True)]
        assert table.device.startswith(f"{BOARD}, ")
        assert table.node == table.summary["node"] == "board"
        assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table
        assert told[0] == "asking board what it is"
        assert any("blocks" in text for text in told), told

    def test_values_are_those_of_a_measurement_here(self) -> None:
        here = table_of(Cluster(), place=place_of(Cluster(), None))
        there = table_of(Cluster())
        assert (here.blocks, here.correction) == (there.blocks, there.correction)
        assert here.node is None
        assert not {"node"} & (here.to_json().keys() | here.summary.keys())

    def test_the_cache_is_the_drivers_and_keyed_by_the_device(self, tmp_path: Path) -> None:
        cache, cluster = tmp_path / "latency-board.json", Cluster()
        first = table_of(cluster, cache)
        assert table_of(cluster, cache) == first
        assert [alone for _, alone in cluster.calls] == [False, True, False]
        other = Cluster("Another SoC")
        assert table_of(other, cache).device.startswith("Another SoC")
        assert [alone for _, alone in other.calls] == [False, True]

    def test_reference_blocks_are_added_there(self) -> None:
        cluster = Cluster()
        table = table_of(cluster)
        more = [(Work(us=3333), (7,))]
        found = extend_table(
            table,
            more,
            SETTINGS,
            build_block=build_block,
            runtime=Device(),
            place=place_of(cluster),
        )
        assert len(found.blocks) == len(table.blocks) + 1
        assert cluster.calls[-1] == ("latency_device:board", True)

    def test_a_gpu_is_asked_alone(self) -> None:
        cluster = Cluster()
        settings = LatencySettings(runtime="torch", device="cuda")
        place_of(cluster).device(settings, lambda text: None)
        assert cluster.calls == [("latency_device:board", True)]

    def test_whole_networks_go_into_the_ledger(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.sqlite", BLOCKS)
        cluster, display = Cluster(), Phases()
        networks = random_networks(3, 2)
        settings = LatencySettings(rounds=16, calls=4, budget_s=1000.0, runtime="torch")
        runflow.measure_whole(
            networks,
            settings,
            canary_ms=None,
            build_network=build_network,
            place=place_of(cluster),
            device=None,
            ledger=ledger,
            display=display,
        )
        assert set(ledger.measurements()) == {a.id for a in networks}
        assert cluster.calls == [("latency_device:board", True)]
        assert display.phases[0] == "measuring 3 networks whole, alone on board"
        ledger.close()


def test_another_process_that_measures_is_waited_for_and_named(tmp_path: Path) -> None:
    cache, told = tmp_path / "latency-board.json", list[str]()
    entered, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(cache, lambda text: None):
            entered.set()
            release.wait(60)

    def tell(text: str) -> None:
        told.append(text)
        release.set()

    other = threading.Thread(target=hold)
    other.start()
    entered.wait(60)
    with locked(cache, tell):
        assert told == ["waiting for another process that measures latency"]
    other.join()
    with locked(cache, tell):
        assert len(told) == 1


class Phases:
    """What a display is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)


class TestAnotherDevice:
    def test_one_that_changes_before_it_measures_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = Cluster()
        place = place_of(cluster)
        asked = place.device(SETTINGS, lambda text: None)
        cluster.processor = "Another SoC"
        monkeypatch.setattr(ExecutorPlace, "device", lambda *_: asked)
        with pytest.raises(EnvironmentProblemError, match=r"device now: Another SoC.*Board"):
            table_of(cluster, place=place)

    def test_one_of_a_run_that_continues_is_checked(self) -> None:
        cluster, told = Cluster(), list[str]()
        place = place_of(cluster)
        device = place.device(SETTINGS, told.append).fingerprint
        place.check(SETTINGS, device, told.append)
        cluster.processor = "Another SoC"
        with pytest.raises(EnvironmentProblemError, match=r"^latency.node: board: is another dev"):
            place.check(SETTINGS, device, told.append)
        place_of(cluster, None).check(SETTINGS, device, told.append)  # here it is not asked for

    def test_a_study_keeps_the_first(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.sqlite", BLOCKS)
        cluster, display = Cluster(), Phases()
        arguments = (SETTINGS, ledger, display)
        assert runflow.settled_device(place_of(cluster, None), *arguments) is None
        assert ledger.meta("latency_summary") is None
        first = runflow.settled_device(place_of(cluster), *arguments)
        summary = ledger.meta("latency_summary")
        assert (summary["node"], summary["device"]) == ("board", first)
        assert summary["runtime"].startswith("onnxruntime")
        assert runflow.settled_device(place_of(cluster), *arguments) == first
        cluster.processor = "Another SoC"
        with pytest.raises(EnvironmentProblemError, match="another device now"):
            runflow.settled_device(place_of(cluster), *arguments)
        ledger.close()


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from nasctl.api import Architecture, Block, Decision, Family, SearchSpace

@dataclass(frozen=True, kw_only=True)
class Mine(Block):
    op: ClassVar[str] = "mine"
    width: int
    def out_shape(self, in_shape):
        return in_shape
    def build(self, in_shape):
        from torch import nn
        return nn.Linear(in_shape[0], in_shape[0])

def family(*, input_shape, num_classes, bias):
    def decode(choices):
        return Architecture(input_shape=(4,), blocks=(Mine(width=choices["width"]),), num_classes=4)
    def build(architecture):
        from torch import nn
        return nn.Linear(4, 4, bias=bias)
    return Family(space=SearchSpace((Decision("width", (1, 2)),)), decode=decode, build=build)

BLOCKS = {"mine": Mine}
FAMILIES = {"mine": family}
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The name of a module in the current folder, and its source."""
    name = f"plugin_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield name
    sys.modules.pop(name, None)


def _width(block: Any, tell: Announce) -> int:
    return int(block.width)


class TestPlugins:
    def test_are_imported_before_their_blocks_are_unpickled(self, plugin: str) -> None:
        import functools

        registry = load_plugins([plugin])
        call = functools.partial(_width, registry.blocks["mine"](width=5))
        sent = pickle.dumps(AfterPlugins(call, registry.sources))
        del sys.modules[plugin]
        sys.path.remove(str(Path.cwd()))  # as in a process that knows nothing of them
        assert pickle.loads(sent)(print) == 5
        assert AfterPlugins(call, registry.sources)(print) == 5

    def test_one_that_is_not_there_is_one_line(self, plugin: str) -> None:
        sent = pickle.dumps(AfterPlugins(print, load_plugins([plugin]).sources))
        del sys.modules[plugin]
        Path(f"{plugin}.py").unlink()
        with pytest.raises(ConfigError, match=rf"^--plugin {plugin}: cannot be imported: Module"):
            pickle.loads(sent)

    def test_another_version_of_it_is_one_line(self, plugin: str) -> None:
        sent = pickle.dumps(AfterPlugins(print, load_plugins([plugin]).sources))
        del sys.modules[plugin]
        Path(f"{plugin}.py").write_text(PLUGIN + "\n# edited\n", encoding="utf-8")
        with pytest.raises(
            EnvironmentProblemError, match=r"another module there .* than here .*; copy it"
        ):
            pickle.loads(sent)

    def test_a_family_with_a_build_of_its_own_travels_by_name(self, plugin: str) -> None:
        config = load_config(
            "search",
            [
                "space.family=mine",
                "+space.options.bias=false",
                "data=digits",
                "latency.node=board",
                "executor.address=127.0.0.1:6379",
            ],
        ).config
        registry = load_plugins([plugin])
        problem = load_problem(config, registry)
        build = network_builder(config, problem, registry)
        assert isinstance(build, FamilyBuilder)
        module = pickle.loads(pickle.dumps(build))(problem.family.decode({"width": 1}))
        assert module.bias is None
        local = config.model_copy(
            update={"latency": config.latency.model_copy(update={"node": None})}
        )
        assert not isinstance(network_builder(local, problem, registry), FamilyBuilder)


ON_CLUSTER = ("latency.node=board", "executor.address=127.0.0.1:6379")


class TestConfiguration:
    def test_a_name_and_a_cluster_are_enough(self) -> None:
        assert load_config("search", ON_CLUSTER).config.latency.node == "board"
        assert load_config("search", [*ON_CLUSTER, "latency.node=7"]).config.latency.node == "7"
        assert load_config("search").config.latency.node is None

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["latency.node=board"], r"latency\.node: 'board' .*executor\.address=HOST:PORT"),
            (
                ["latency.node=board", "executor=inline"],
                r"latency\.node: 'board' .*executor=ray executor\.address=HOST:PORT",
            ),
            ([*ON_CLUSTER, "latency.node='my board'"], r"latency\.node: .*letters, digits"),
            ([*ON_CLUSTER, "latency.node='a/b'"], r"latency\.node: .*letters, digits"),
            ([*ON_CLUSTER, "latency.node=''"], r"latency\.node: .*letters, digits"),
            (
                [*ON_CLUSTER, "latency.name=none", "~objectives.latency_ms"],
                r"latency\.node: 'board' measures nothing with latency=none",
            ),
            (
                [*ON_CLUSTER, "evaluator=table", "space.family=table"],
                r"latency\.node: 'board' measures nothing with evaluator=table",
            ),
            ([*ON_CLUSTER, "latency.nod=b"], r"latency\.nod.*did you mean 'latency.node'"),
            (
                ["latency.node=board", "latency.compile=true"],
                r"(?s)latency\.node: 'board' .*latency\.compile: True needs",
            ),
        ],
    )
    def test_what_cannot_be_is_refused(self, overrides: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_config("search", overrides)

    def test_an_ablation_is_checked_alike(self) -> None:
        with pytest.raises(ConfigError, match=r"latency\.node: 'board' .*executor\.address"):
            load_ablation("linear_bottleneck", ["latency=table", "latency.node=board"])

    def test_a_replay_measures_nothing_wherever(self) -> None:
        changes = ["latency.node=board", "evaluator=replay", "replay.run=runs/x"]
        assert load_config("search", changes).config.latency.node == "board"

    def test_it_may_not_change_on_resume(self) -> None:
        old = load_config("search", ON_CLUSTER).resolved
        new = load_config("search", [ON_CLUSTER[1], "latency.node=phone"]).resolved
        assert config_diff(old, new) == ["latency.node: board -> phone"]
        assert config_diff(old, load_config("search").resolved) == ["latency.node: board -> None"]

    def test_a_run_of_before_continues_here_and_nowhere_else(self) -> None:
        old = load_config("search").resolved
        old["latency"] = {k: v for k, v in old["latency"].items() if k != "node"}
        assert config_diff(old, load_config("search").resolved) == []
        new = load_config("search", ON_CLUSTER).resolved
        assert config_diff(old, new) == ["latency.node: absent -> board"]

    def test_a_family_with_costs_of_its_own_has_nothing_to_measure(self) -> None:
        from tests import toy

        config = load_config("search", ON_CLUSTER).config
        family = Family(space=toy.toy_family().space, decode=toy.decode, cost=toy.cost)
        problem = Problem(family=family, family_name="toy", family_options={}, dataset=None)
        with pytest.raises(ConfigError, match=r"^latency\.node: board: .*costs of its own"):
            make_pricer(
                config,
                problem,
                [],
                load_plugins([]),
                stored=Tables(),
                announce=print,
                place=place_of(Cluster()),
            )
