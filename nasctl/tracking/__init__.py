"""Layer 3: showing a run in MLflow: a projection of the ledger that never slows a search down."""

from nasctl.tracking.audit import StoreUnreachableError, stored_statuses
from nasctl.tracking.project import ProjectionResult, TrackingSettings, project
from nasctl.tracking.store import ProjectionState
from nasctl.tracking.tracker import Tracker, sync
from nasctl.tracking.ui import UiCommand, answers, ui_command
from nasctl.tracking.view import RunRecords

__all__ = [
    "ProjectionResult",
    "ProjectionState",
    "RunRecords",
    "StoreUnreachableError",
    "Tracker",
    "TrackingSettings",
    "UiCommand",
    "answers",
    "project",
    "stored_statuses",
    "sync",
    "ui_command",
]
