"""How the process of a command ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def test_a_reader_that_has_gone_is_no_success() -> None:
    command = [sys.executable, "-c", CODE.format(body="print('x' * 10**5, flush=False)")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(120) != 0
