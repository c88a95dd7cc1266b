"""Errors that users meet: one line, the key, the value, the nearest valid one, and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Why a disk takes no more."""


class NasctlError(Exception):
    """A failure that is explained to the user in one line; `exit_code` is the process status."""

    exit_code = 1


class ConfigError(NasctlError):
    """Bad usage or configuration; carries every problem found, not only the first.

    Args:
        problems: one line each, starting with the key they are about.
        source: the file (or "command line") in which they were found.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str], *, source: str | None = None) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.source = source
        super().__init__(self._text())

    def _text(self) -> str:
        where = f"{self.source}: " if self.source else ""
        if len(self.problems) == 1:
            return where + self.problems[0]
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{where}{len(self.problems)} problems{lines}"


class SpecError(ConfigError, ValueError):
    """A block, architecture or search space that cannot exist."""


class NothingFeasibleError(NasctlError):
    """No candidate satisfies the constraints; the message names the closest one."""

    exit_code = 3


class TooManyFailuresError(NasctlError):
    """So many trials failed that going on would waste the machine."""

    exit_code = 3


class EnvironmentProblemError(NasctlError):
    """Disk, lock, cluster or authentication: nothing that the configuration can mend."""

    exit_code = 4


class EmptyLedgerError(EnvironmentProblemError):
    """A ledger without its tables: whoever made the file was cut short in its first moment."""


class InterruptedSearchError(NasctlError):
    """SIGINT (130), SIGTERM (143) or SIGHUP (129): everything finished is kept, the same command
    continues."""

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def if_heard() -> Iterator[None]:
    """For what is said beside the results: that its disk is full, its reader or its terminal gone
    is no reason to lose them."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EPIPE, errno.EIO):
            raise


def nearest(name: object, valid: Iterable[object]) -> str | None:
    """The valid name that `name` was probably meant to be, or None."""
    names = [str(v) for v in valid]
    folded = {n.lower(): n for n in names}
    text = str(name).lower()
    found = difflib.get_close_matches(text, list(folded), n=1, cutoff=0.5)
    if not found:  # a missing prefix or suffix is a common slip: `ratio` for `expand_ratio`
        found = [n for n in folded if text and (text in n or n in text)][:1]
    return folded[found[0]] if found else None


def unknown(kind: str, name: object, valid: Iterable[object]) -> str:
    """One line about a name that does not exist: what it is, the nearest match, what there is."""
    names = [str(v) for v in valid]
    guess = nearest(name, names)
    hint = f"; did you mean {guess!r}?" if guess else ""
    known = f" (known: {', '.join(names)})" if names else ""
    return f"unknown {kind} {name!r}{hint}{known}"
