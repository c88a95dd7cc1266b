"""How the process of a command ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nasctl.cli import cli

CODE = """
import atexit, os, sys, threading, time
from nasctl import __main__ as entry

class Slow:
    def __del__(self):
        os.write(2, b"freed")

def main():
    kept.append(Slow())
    atexit.register(print, "at exit")
    print("said", end=" ")
    {body}

kept = []
entry.main = main
entry.run()
"""


def ended(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE.format(body=body)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit(0)", 0)]
)
def test_everything_is_said_and_nothing_is_freed_one_by_one(body: str, code: int) -> None:
    done = ended(body)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said at exit\n", "")


def test_a_thread_that_works_on_is_waited_for() -> None:
    done = ended("threading.Thread(target=lambda: (time.sleep(0.3), print('worked'))).start()")
    assert (done.returncode, done.stdout) == (0, "said worked\nat exit\n")


def test_an_exit_with_words_says_them() -> None:
    done = ended("sys.exit('words')")
    assert (done.returncode, done.stdout) == (1, "said at exit\n")
    assert "words" in done.stderr


def test_an_exception_is_what_it_was() -> None:
    done = ended("raise RuntimeError('mistake')")
    assert done.returncode == 1
    assert "RuntimeError: mistake" in done.stderr


def closed(body: str, redirection: str) -> subprocess.CompletedProcess[str]:
    program = shlex.join([sys.executable, "-c", CODE.format(body=body)])
    return subprocess.run(
        ["sh", "-c", f"{program} {redirection}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("code", [0, 3])
def test_streams_that_are_closed_change_no_exit_code(redirection: str, code: int) -> None:
    done = closed(f"print('more', file=sys.stderr); sys.exit({code})", redirection)
    assert done.returncode == code
    assert "Error" not in done.stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    command = [sys.executable, "-c", CODE.format(body="print('x' * 1000)")]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=buffered, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(120) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["--version", "--help", "configs"])
def test_a_full_disk_behind_stdout_is_one_line_and_4(arguments: str, unbuffered: str) -> None:
    """What is still in a buffer fails once more at the end."""
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m nasctl {arguments} > /dev/full"],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: stdout: No space left on device")


@pytest.mark.parametrize("name", ["resume", "continue"])
def test_who_looks_for_a_way_to_continue_is_told(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "runs/x"])
    assert done.exit_code == 2
    ours = f"No such command '{name}'. The command that began a run continues it."
    assert done.stderr.endswith(f"Error: {ours}\n")
    typo = CliRunner().invoke(cli, ["serch"])
    assert (typo.exit_code, "'search'" in typo.stderr) == (2, True)
