"""Layer 3: showing a run in MLflow: a projection of the ledger that never slows a search down."""

from nasctl.tracking.address import default_uri, password_problem, uri_problem
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
    "default_uri",
    "password_problem",
    "project",
    "stored_statuses",
    "sync",
    "ui_command",
    "uri_problem",
]
