"""Packaged configurations, and what is said when one is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nasctl.cli import configs
from nasctl.config import (
    LoadedConfig,
    init_dir,
    list_ablations,
    list_configs,
    list_verification,
    load_config,
    packaged_folder,
)
from nasctl.config.schema import GROUPS, SearchConfig
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.recipe import Recipe
from nasctl.trial import BUILTIN_METRICS, COST_METRICS
from tests.config_texts import BASED, load

pytestmark = pytest.mark.usefixtures("own_folder")


def packaged(*overrides: str) -> LoadedConfig:
    return load_config("mbv2_space", overrides)


class TestListsForMappings:
    def test_a_list_of_choices_replaces_choices_and_leaves_the_scope(self) -> None:
        options = packaged("space.options.kernel_size=[3,5,7]").config.space.options
        assert options["kernel_size"] == {"choices": [3, 5, 7], "scope": "block"}
        options = packaged("space.options.stages.1.depth=[2,3]", "trials=3").config.space.options
        assert options["stages"][1]["depth"] == [2, 3]

    def test_a_bad_value_is_blamed_on_the_command_line(self) -> None:
        with pytest.raises(ConfigError, match=r"^command line: trials: expected a whole number"):
            packaged("trials=abc")


class TestPackaged:
    def test_the_default_latency_is_the_class(self) -> None:
        from nasctl.config.schema import LatencyConfig
        from nasctl.latency_settings import LatencySettings

        given = LatencyConfig(name="table").model_dump(exclude={"name", "node"})
        assert LatencySettings(**given) == LatencySettings()

    def test_the_default_recipe_is_the_class(self) -> None:
        recipe = load(BASED).config.recipe
        assert recipe.to_recipe() == Recipe()
        assert set(type(recipe).model_fields) == {f.name for f in dataclasses.fields(Recipe)}

    def test_search_yaml_states_every_key(self) -> None:
        stated = yaml.safe_load((packaged_folder() / "search.yaml").read_text())
        groups = [next(iter(e)) for e in stated.pop("defaults") if isinstance(e, dict)]
        assert sorted(groups) == sorted(GROUPS)
        assert {*stated, *groups} == set(SearchConfig.model_fields)
        assert set(stated["constraints"]) == set(COST_METRICS)
        assert set(stated["reference_point"]) == set(BUILTIN_METRICS)

    def test_the_sample_space_is_valid_by_name_and_by_path(self) -> None:
        named = load_config("mbv2_space")
        by_path = load_config(str(packaged_folder() / "mbv2_space.yaml"))
        assert named.config == by_path.config
        assert named.config.name == "mbv2_space"
        assert named.config.space.options["stages"]

    def test_every_file_is_listed_with_a_description(self) -> None:
        listed = {(c.group, c.name): c.description for c in list_configs()}
        assert (None, "mbv2_space") in listed
        assert {group for group, _ in listed if group} == set(GROUPS)
        assert [key for key, description in listed.items() if not description] == []

    def test_settings_of_a_verification_are_listed_by_themselves(self) -> None:
        (found,) = list_verification()
        assert (found.name, found.group) == ("verify", None)
        assert found.description.startswith("Settings of `nasctl verify RUN`")
        assert "verify" not in {c.name for c in (*list_configs(), *list_ablations())}
        shown = CliRunner().invoke(configs).output
        assert f"\nfor nasctl verify\nverify{' ' * 27}Settings of `nasctl verify" in shown

    def test_init_writes_an_example_once(self, tmp_path: Path) -> None:
        path = init_dir(tmp_path / "new" / "place")
        assert path == tmp_path / "new" / "place" / "mbv2_space.yaml"
        assert load_config(str(path)).config == load_config("mbv2_space").config
        path.write_text("mine")
        with pytest.raises(ConfigError, match="exists already"):
            init_dir(path.parent)
        assert path.read_text() == "mine"

    def test_init_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EnvironmentProblemError, match="cannot be written"):
            init_dir(tmp_path / "file" / "below")


class TestNotes:
    def test_more_workers_than_the_window(self) -> None:
        (note,) = load(BASED, "executor.workers=8").notes
        assert "executor.workers=8 is more than search.window=4" in note
        assert "use search.window=24 or search.order=async" in note
        assert load(BASED, "executor.workers=8", "search.order=async").notes == ()
        assert load(BASED, "executor.workers=4").notes == ()
        assert load(BASED, "executor=inline", "search.window=1").notes == ()

    def test_of_a_replay_its_own_workers_count(self) -> None:
        replay = ("evaluator=replay", "replay.run=runs/x")
        assert load(BASED, *replay, "executor.workers=8", "replay.workers=4").notes == ()
        for executor in ("ray", "inline"):
            (note,) = load(BASED, *replay, f"executor={executor}", "replay.workers=5").notes
            assert "replay.workers=5 is more than search.window=4" in note
            assert "use search.window=15 or search.order=async" in note

    def test_workers_by_the_number_of_cores_count_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nasctl.environment.usable_cores", lambda: 6)
        (note,) = load(BASED).notes
        assert "executor.workers=6 is more than search.window=4" in note
        assert load(BASED, "executor.cpus=1.5").notes == ()

    def test_repeats_that_are_never_made(self) -> None:
        settings = ("executor.workers=1", "search.duplicates=repeat")
        (note,) = load(BASED, *settings, "search.max_seeds=1").notes
        assert "search.duplicates=repeat repeats nothing with search.max_seeds=1" in note
        assert load(BASED, *settings).notes == ()

    def test_a_sampler_that_never_gets_to_work(self) -> None:
        for sampler in ("tpe", "gp"):
            settings = (f"sampler={sampler}", "executor.workers=1")
            (note,) = load(BASED, "trials=10", *settings).notes
            assert "every trial is random" in note
            assert load(BASED, "trials=11", *settings).notes == ()
        # It decides after a quarter of the trials at the latest.
        assert load(BASED, "trials=5", "executor.workers=1").notes == ()
