"""Where `nasctl export` may write: over its own earlier files, over nothing else."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.destination import check_destination, is_exported
from nasctl.export.flat import flatten
from nasctl.export.formats import SUFFIXES, WRITERS, files_of
from nasctl.files import temporary_folder, write_text
from nasctl.onnx_runtime import export_onnx
from tests.test_export_streaming import CARD, network


@pytest.mark.parametrize("kind", list(WRITERS))
def test_its_own_files_are_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{SUFFIXES[kind]}"
    assert check_destination(files_of(path, kind)) == ()
    WRITERS[kind](flatten(network()), CARD, path)
    files = files_of(path, kind)
    assert check_destination(files) == files
    assert sorted(files) == sorted(tmp_path.iterdir()), "every file that is written is looked at"


def foreign(folder: Path) -> list[Path]:
    """Files of all formats that somebody else has made, damaged ones and empty ones."""
    made = [folder / name for name in ("a.onnx", "b.pt2", "c.py", "d.safetensors", "e.txt")]
    made[0].write_bytes(export_onnx(network(), (3, 12, 10)))
    torch.save({"nasctl": torch.zeros(1)}, made[1])
    made[2].write_text("import nasctl\n")
    save_file({"nasctl": torch.zeros(1)}, made[3], metadata={"format": "pt"})
    made[4].write_text("notes")
    for name, content in {
        "torn.safetensors": b"\xff" * 12,
        "deep.safetensors": (4000).to_bytes(8, "little") + b"[" * 4000,
        "list.safetensors": (2).to_bytes(8, "little") + b"[]",
        "latin.py": b"\xe9" * 30,
        "empty.onnx": b"",
        "torn.pt2": b"PK\x03\x04 not a zip",
    }.items():
        (folder / name).write_bytes(content)
        made.append(folder / name)
    return made


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    for path in foreign(tmp_path):
        before = path.read_bytes()
        assert not is_exported(path), path.name
        with pytest.raises(ConfigError, match=rf"{path.name}: is there, and not written by nasctl"):
            check_destination([path])
        assert path.read_bytes() == before


def test_weights_beside_a_new_python_file_are_not_replaced(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match=r"net\.safetensors: is there, and not written by"):
        check_destination(files_of(tmp_path / "net.py", "torch"))


def test_folders_and_links_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").mkdir()
    with pytest.raises(ConfigError, match=r"net\.safetensors: is there, and is a folder; choose"):
        check_destination(files_of(tmp_path / "net.py", "torch"))
    (tmp_path / "loop.onnx").symlink_to(tmp_path / "loop.onnx")
    with pytest.raises(ConfigError, match=r"loop\.onnx: is there, and is no regular file"):
        check_destination([tmp_path / "loop.onnx"])


def test_a_folder_that_cannot_be_made_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblemError, match=r"n\.onnx: cannot be written: .*not a fold"):
        check_destination([tmp_path / "file" / "below" / "n.onnx"])


class TestReasons:
    """Messages name the file that a user asked for, and no temporary one."""

    def test_of_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(self: Path, *_: object, **__: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(EnvironmentProblemError) as caught:
            write_text(tmp_path / "front.json", "{}")
        expected = f"{tmp_path}/front.json: cannot be written: {os.strerror(errno.ENOSPC)}"
        assert str(caught.value) == expected
        assert list(tmp_path.iterdir()) == []

    def test_of_a_place_that_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "x.onnx").mkdir()
        with pytest.raises(
            EnvironmentProblemError, match=r"x\.onnx: cannot be written: Is a d.*y$"
        ):
            write_text(tmp_path / "x.onnx", "1")
        assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]

    def test_of_a_temporary_folder_that_is_full(self) -> None:
        seen: list[Path] = []

        def fill() -> None:
            with temporary_folder("out/net.onnx") as folder:
                seen.append(folder)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "a"))

        with pytest.raises(EnvironmentProblemError) as caught:
            fill()
        text = str(caught.value)
        assert text.startswith("out/net.onnx: cannot be made: No space left on device, in the fold")
        assert tempfile.gettempdir() in text
        assert str(seen[0]) not in text
        assert not seen[0].exists()

    def test_of_one_that_cannot_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(**_: object) -> None:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

        monkeypatch.setattr(tempfile, "TemporaryDirectory", none)
        says = r"^x: cannot be made: No usable .*TMPDIR"
        with pytest.raises(EnvironmentProblemError, match=says), temporary_folder("x"):
            raise AssertionError("there is none")

    def test_other_errors_are_not_blamed_on_it(self) -> None:
        with pytest.raises(BrokenPipeError), temporary_folder("x"):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
