"""What evaluators and trainers of plugins may give: no more than they were asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nasctl.arch import Architecture
from nasctl.data import digits
from nasctl.dataset import Dataset
from nasctl.evaluate import EvaluatorJob, TrainingJob
from nasctl.executors.attempt import Attempt, Message
from nasctl.executors.base import Job
from nasctl.recipe import Recipe
from nasctl.trial import OutcomeKind, Work
from search_spaces.blocks import GlobalPoolLinear

PLUGIN = """
def results(count):
    return ({"accuracy": n / 10} for n in range(1, count + 1))

EVALUATORS = {
    "short": lambda architecture, budget, seed: results(budget - 1),
    "exact": lambda architecture, budget, seed: results(budget),
    "eager": lambda architecture, budget, seed: results(budget + 1),
}
TRAINERS = {
    "exact": lambda model, dataset, recipe, seed: results(recipe.epochs),
    "eager": lambda model, dataset, recipe, seed: results(recipe.epochs + 2),
}
"""

NETWORK = Architecture(input_shape=(1, 8, 8), blocks=(GlobalPoolLinear(out=10),), num_classes=10)


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "budgets.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "budgets", raising=False)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


def told(job: Job, epochs: int) -> list[Message]:
    """Everything that a worker says of it."""
    work = Work(number=0, attempt=1, architecture=NETWORK, seed=0, epochs=epochs)
    attempt = Attempt(job, work)
    messages = [attempt.step()]
    while messages[-1].outcome is None:
        messages.append(attempt.step())
    return messages


@pytest.mark.parametrize(("name", "last"), [("short", 2), ("exact", 3)])
def test_an_evaluator_may_take_its_budget_or_less(name: str, last: int) -> None:
    *_, end = told(EvaluatorJob(evaluator=name, plugins=("budgets",)), 3)
    assert end.outcome is not None
    assert end.outcome.kind is OutcomeKind.COMPLETE
    found = [m.epoch for m in told(EvaluatorJob(evaluator=name, plugins=("budgets",)), 3)]
    assert [e for e in found if e] == list(range(1, last + 1))


def test_an_evaluator_that_goes_on_fails_its_trial_and_says_why() -> None:
    *before, end = told(EvaluatorJob(evaluator="eager", plugins=("budgets",)), 3)
    assert [m.epoch for m in before] == [1, 2]
    assert end.outcome is not None
    assert end.outcome.kind is OutcomeKind.FAILED
    assert "evaluator 'eager' gave a result after the last of its 3 epochs" in str(
        end.outcome.error
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("exact", OutcomeKind.COMPLETE), ("eager", OutcomeKind.FAILED)]
)
def test_so_does_a_trainer(name: str, kind: OutcomeKind, data: Dataset) -> None:
    job = TrainingJob(recipe=Recipe(trainer=name), plugins=("budgets",), dataset=data)
    *_, end = told(job, 2)
    assert end.outcome is not None
    assert end.outcome.kind is kind
    if kind is OutcomeKind.FAILED:
        assert "trainer 'eager' gave a result after the last of its 2 epochs" in str(
            end.outcome.error
        )
