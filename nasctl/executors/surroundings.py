"""Layer 4: what a library changes around itself, and how to put it back. Free of Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def handlers_now() -> dict[signal.Signals, Any]:
    """What Python does on the signals that programs like to take over."""
    return {number: signal.getsignal(number) for number in SIGNALS}


def install_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    """Puts handlers back, where that is possible: in the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """The handlers of signals before the block come back after it."""
    handlers = handlers_now()
    try:
        yield
    finally:
        install_handlers(handlers)


@contextlib.contextmanager
def environ(values: Mapping[str, str], *, also: Sequence[str] = ()) -> Iterator[None]:
    """Environment variables for the block; those in `also` are restored too."""
    before = {name: os.environ.get(name) for name in (*values, *also)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def silenced(package: str) -> Iterator[None]:
    """Keeps the log and the warnings of a package off the terminal."""
    logger = logging.getLogger(package)
    level, disabled = logger.level, logger.disabled
    logger.disabled = True
    logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.disabled = disabled


@contextlib.contextmanager
def replaced(owner: Any, **others: Any) -> Iterator[None]:
    """Other attributes in place of an object's own; those that it does not have are left out."""
    originals = {name: getattr(owner, name) for name in others if hasattr(owner, name)}
    for name in originals:
        setattr(owner, name, others[name])
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)
