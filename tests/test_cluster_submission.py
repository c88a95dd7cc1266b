"""What is sent to a cluster: the files that a run needs and no others, and an exact command."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from nasctl.cluster_submission import (
    HEAD_OUTPUT_DIR,
    Submission,
    new_job_id,
    plugin_files,
    prepare,
    prepare_verification,
)
from nasctl.errors import ConfigError
from tests.e2e.command import TOY

HOSTILE = [
    "it's",
    "$(touch canary)",
    "`touch canary`",
    '"; touch canary; "',
    "a\nb",
    "$HOME",
    "!x",
    "*",
    "\\",
    "-n",
    "#",
    "~",
    "x y",
    "ü",
]


@pytest.fixture
def desk(own_folder: Path) -> Path:
    (own_folder / "toy.yaml").write_text(TOY)
    return own_folder


def prepared(
    config: str = "toy.yaml",
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    *,
    ablate: bool = False,
    fresh: bool = False,
    as_json: bool = False,
) -> Submission:
    return prepare(
        config,
        overrides,
        plugins,
        ablate=ablate,
        fresh=fresh,
        as_json=as_json,
        root=Path.cwd(),
    )


def names(submission: Submission) -> set[str]:
    return {str(name) for name in submission.files}


def test_a_run_on_the_cluster(desk: Path) -> None:
    made = prepared(overrides=["trials=3"], plugins=["gone"], fresh=True, as_json=True)
    assert (made.run, made.output_dir, made.config) == ("toy", "", "toy.yaml")
    assert list(made.arguments) == [
        *("search", "--progress", "plain", "--fresh", "--json", "--plugin=gone"),
        *("--", "toy.yaml", "trials=3", "executor=ray", "executor.address=auto"),
        HEAD_OUTPUT_DIR,
    ]
    assert made.kind == "search"
    assert made.notes == (f"--plugin gone: not below {desk}; the cluster has to have it",)


def test_only_what_the_run_needs_is_sent(desk: Path) -> None:
    text = TOY.replace("_self_,", "_self_, override sampler: mine,")
    (desk / "toy.yaml").write_text(text)
    (desk / "sampler").mkdir()
    (desk / "sampler" / "mine.yaml").write_text("defaults: [random, _self_]\n")
    (desk / "sampler" / "other.yaml").write_text("name: random\n")
    (desk / "plug.py").write_text("EVALUATORS = {}\n")
    for secret in (".env", "ray_token", "data.npz", "notes.py", "other.yaml"):
        (desk / secret).write_text("secret")
    (desk / ".git").mkdir()
    (desk / ".git" / "config").write_text("secret")
    made = prepared(plugins=["plug"])
    assert names(made) == {"toy.yaml", "sampler/mine.yaml", "plug.py"}
    target = desk / "sent"
    target.mkdir()
    made.write(target)
    sent = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert sent == names(made)
    assert (target / "toy.yaml").read_text() == text


def test_a_packaged_configuration_needs_no_file(own_folder: Path) -> None:
    made = prepared("mbv2_space", ["name=mine"])
    assert (made.run, made.config, made.files) == ("mine", "mbv2_space", {})
    study = prepared("linear_bottleneck", ablate=True)
    assert (study.run, study.config, study.files) == ("linear_bottleneck", "linear_bottleneck", {})
    assert study.arguments[0] == "ablate"


def test_options_of_data_are_checked_here_where_they_are_known(own_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.path: unknown option of fashion_mnist_12k 'pa"):
        prepared("mbv2_space", ["data=fashion_mnist_12k", "+data.path=/data/pics"])
    with pytest.raises(ConfigError, match=r"^data.pth: .*; did you mean 'path'\?"):
        prepared("mbv2_space", ["data=cifar10", "data.path=/data/pics", "+data.pth=/data/pics"])
    theirs = ["data=image_folder", "data.path=/data/pics"]  # on the cluster, and not here
    assert set(theirs) < set(prepared("mbv2_space", theirs).arguments)
    assert prepared("mbv2_space", ["data.name=of_a_plugin", "+data.any=1"], ["plug"]).run


def test_files_that_the_command_line_chooses_are_sent(desk: Path) -> None:
    (desk / "sub").mkdir()
    (desk / "toy.yaml").rename(desk / "sub" / "toy.yaml")
    (desk / "sub" / "sampler").mkdir()
    (desk / "sub" / "sampler" / "mine.yaml").write_text("defaults: [random, _self_]\n")
    made = prepared("sub/toy.yaml", ["sampler=mine"])
    assert made.config == "toy.yaml"
    assert names(made) == {"toy.yaml", "sampler/mine.yaml"}


def test_files_from_elsewhere_are_refused(
    desk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "sampler").mkdir()
    (other / "sampler" / "mine.yaml").write_text("defaults: [random, _self_]\n")
    (desk / "toy.yaml").write_text(TOY + f"hydra: {{searchpath: [{other}]}}\n")
    with pytest.raises(ConfigError, match=r"only files beside toy\.yaml travel"):
        prepared(overrides=["sampler=mine"])


def test_a_linked_file_gives_its_own_name(desk: Path) -> None:
    text = TOY.replace("name: toy\n", "")
    (desk / "real").mkdir()
    (desk / "real" / "long_name.yaml").write_text(text)
    (desk / "short.yaml").symlink_to("real/long_name.yaml")
    made = prepared("short.yaml")
    assert (made.run, made.config, names(made)) == ("short", "short.yaml", {"short.yaml"})


def test_a_file_whose_name_looks_like_an_option(desk: Path) -> None:
    (desk / "-x.yaml").write_text(TOY)
    assert prepared("./-x.yaml").config == "./-x.yaml"


@pytest.mark.parametrize(
    ("override", "note"),
    [
        ("executor=inline", "executor=inline: a submitted run has executor=ray"),
        ("executor.address=10.0.0.5:6379",
         "executor.address=10.0.0.5:6379: a submitted run has executor.address=auto"),
        ("executor.address=null", "executor.address=null: a submitted run has "
         "executor.address=auto"),
        ("output_dir=results", "output_dir=results: not an absolute path of the head; its own "
         "folder for runs is used"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(desk: Path, override: str, note: str) -> None:
    made = prepared(overrides=[override, "seed=3"])
    assert made.notes == (note,)
    assert made.arguments[-4:-1] == ("seed=3", "executor=ray", "executor.address=auto")
    assert override not in made.arguments


@pytest.mark.parametrize("override", ["executor=ray", "executor.address=auto", "output_dir=runs"])
def test_what_is_so_anyway_is_not_mentioned(desk: Path, override: str) -> None:
    assert prepared(overrides=[override]).notes == ()


def test_other_settings_of_the_user_win(desk: Path) -> None:
    made = prepared(overrides=["executor.workers=3", "executor.gpus=0.25", "output_dir=/data/x y"])
    assert made.arguments[-5:-2] == (
        *("executor.workers=3", "executor.gpus=0.25", "output_dir=/data/x y"),
    )
    assert made.output_dir == "/data/x y"
    assert HEAD_OUTPUT_DIR not in made.entrypoint("id", "nasctl")


def test_a_bad_configuration_is_refused_here(desk: Path) -> None:
    with pytest.raises(ConfigError, match="trails"):
        prepared(overrides=["trails=3"])
    with pytest.raises(ConfigError, match="no such file"):
        prepared("none.yaml")
    with pytest.raises(ConfigError, match="is for `nasctl ablate"):
        prepared("linear_bottleneck")
    with pytest.raises(ConfigError, match="run it here: nasctl ablate relu_information_loss"):
        prepared("relu_information_loss", ablate=True)


# -- plugins --------------------------------------------------------------------------------------


def test_a_plugin_brings_what_it_imports_from_here_and_runs_nothing(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('executed')\n")
    (package / "main.py").write_text(
        "import numpy, helper\nfrom . import side\nfrom .deep import thing, other as o\n"
        "def later():\n    import lazy.inner\n    from ..pkg import late\n"
    )
    for name in ("side", "unused", "late", "deep/__init__", "deep/thing"):
        (package / f"{name}.py").write_text("")
    (package / "deep" / "other.py").write_text("from .. import main\nfrom ..side import x\n")
    (package / "weights.npz").write_text("data")
    (tmp_path / "helper.py").write_text("import pkg.main\n")
    (tmp_path / "numpy_like.py").write_text("")
    (tmp_path / "lazy").mkdir()
    (tmp_path / "lazy" / "inner.py").write_text("")
    found = plugin_files("pkg.main", tmp_path)
    assert {str(name) for name in found} == {
        *("pkg/__init__.py", "pkg/main.py", "pkg/side.py", "pkg/late.py", "helper.py"),
        *("pkg/deep/__init__.py", "pkg/deep/thing.py", "pkg/deep/other.py", "lazy/inner.py"),
    }
    assert found == {name: tmp_path / name for name in found}
    assert plugin_files("numpy", tmp_path) == {}


@pytest.mark.parametrize("name", ["plug.py", "./plug.py", "pkg/plug", "../plug", "-x", "a..b", ""])
def test_what_names_no_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="give the name of a module"):
        plugin_files(name, tmp_path)


@pytest.mark.parametrize("text", ["def f(:\n", "x = '\0'\n"])
def test_a_plugin_that_is_not_python_is_refused_here(tmp_path: Path, text: str) -> None:
    (tmp_path / "plug.py").write_text(text)
    with pytest.raises(ConfigError, match=r"--plugin plug: .*plug\.py"):
        plugin_files("plug", tmp_path)


# -- the command ----------------------------------------------------------------------------------


def words(entrypoint: str, folder: Path, **environment: str) -> list[str]:
    """What the head's shell makes of a command: the arguments that `env` is started with."""
    show = folder / "show"
    show.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    show.chmod(0o755)
    text = entrypoint.replace("exec env ", f"exec {shlex.quote(str(show))} ", 1)
    done = subprocess.run(
        text, shell=True, capture_output=True, check=True, cwd=folder, env=environment
    )
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_shell_gets_every_argument_as_it_was(tmp_path: Path, text: str) -> None:
    made = Submission(
        run="r",
        output_dir="",
        config=text,
        files={},
        arguments=("search", "--", text, f"a={text}", HEAD_OUTPUT_DIR),
        notes=(),
    )
    command = f"nasctl submit {text}"
    found = words(made.entrypoint("the-id", command), tmp_path, HOME="/home/x")
    assert found == [
        *("NASCTL_JOB=the-id", f"NASCTL_COMMAND={command}", "nasctl", "search", "--"),
        *(text, f"a={text}", "output_dir='/home/x/nasctl-runs'"),
    ]
    assert not (tmp_path / "canary").exists()


def test_the_head_says_where_its_runs_are(tmp_path: Path) -> None:
    made = Submission(
        run="r", output_dir="", config="c", files={}, arguments=(HEAD_OUTPUT_DIR,), notes=()
    )
    found = words(made.entrypoint("i", "c"), tmp_path, HOME="/h", NASCTL_RUNS="/my runs/$(x),[1]")
    assert found[-1] == "output_dir='/my runs/$(x),[1]'"


def test_a_verification_is_of_the_head_s_run(desk: Path) -> None:
    (desk / "plug.py").write_text("EVALUATORS = {}\n")

    def prepared(output_dir: str, *overrides: str, flags: bool = False) -> Submission:
        return prepare_verification(
            "toy", output_dir, overrides, ["plug"], fresh=flags, as_json=flags, root=desk
        )

    made = prepared("", "verify.seeds=5", "executor=inline", flags=True)
    assert (made.kind, made.run, made.output_dir, names(made)) == ("verify", "toy", "", {"plug.py"})
    assert made.notes == ("executor=inline: a submitted run has executor=ray",)
    found = words(made.entrypoint("i", "c"), desk, HOME="/h", NASCTL_RUNS="/my runs/$(x)")
    assert found[3:] == [
        *("verify", "--progress", "plain", "--fresh", "--json", "--plugin=plug", "--"),
        *("/my runs/$(x)/toy", "verify.seeds=5", "executor=ray", "executor.address=auto"),
    ]
    assert "/h/nasctl-runs/toy" in words(prepared("").entrypoint("i", "c"), desk, HOME="/h")
    assert "/data/x y/toy" in words(prepared("/data/x y").entrypoint("i", "c"), desk)
    assert "/toy" in words(prepared("/").entrypoint("i", "c"), desk)


def test_an_argument_that_is_no_text_is_refused() -> None:
    made = Submission(
        run="r", output_dir="/x", config="c", files={}, arguments=("a=\udcff",), notes=()
    )
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        made.entrypoint("i", "c")


def test_ids_are_readable_and_unique() -> None:
    made = {new_job_id("", "mbv2_space") for _ in range(50)}
    assert len(made) == 50
    assert all(name.startswith("nasctl-mbv2_space-") for name in made)
    assert new_job_id("fetch", "a").startswith("nasctl-fetch-a-")
