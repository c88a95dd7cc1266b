"""Layer 4: `nasctl export --int8`: a network of a run in int8, beside what it was in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.arch import Architecture
from nasctl.dataset import Dataset
from nasctl.export.flow import Exported, check_export, export_network, file_line
from nasctl.export.images import Resized
from nasctl.export.int8 import (
    CALIBRATION_IMAGES,
    LEAST_AGREEMENT,
    Agreement,
    Quantised,
    agreement_of,
    calibration_images,
    file_settings,
    latencies_of,
    quantise,
)
from nasctl.export.parity import spread
from nasctl.files import replacing, temporary_folder
from nasctl.latency_bench import silent
from nasctl.latency_place import this_device
from nasctl.latency_settings import LatencySettings
from nasctl.latency_table import WholeLatency
from nasctl.latency_try import try_runtime
from nasctl.records import RunRecords

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Int8Export:
    """What was written, and how it compares with the float file, which was not kept.

    Attributes:
        exported: the float file: parity, card; `exported.files` are not there any more.
        agreement: on validation images.
        float_latency, latency: of one session, on this machine.
        device: that they are of.
        warnings: one line each, of what a user of the file would want to know.
        replaced: `path`, if it was there from an earlier export.
    """

    path: Path
    exported: Exported
    quantised: Quantised
    agreement: Agreement
    float_latency: WholeLatency
    latency: WholeLatency
    device: str
    warnings: tuple[str, ...]
    replaced: tuple[Path, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people: float beside int8."""
        a, q, before, now = self.agreement, self.quantised, self.float_latency, self.latency
        rows = (
            ("", "float", "int8"),
            ("accuracy", f"{a.float_accuracy:.4f}", f"{a.accuracy:.4f}"),
            ("latency ms p50", f"{before.p50_ms:.3g}", f"{now.p50_ms:.3g}"),
            ("latency ms p90", f"{before.p90_ms:.3g}", f"{now.p90_ms:.3g}"),
            ("bytes", f"{q.float_bytes:,}", f"{q.bytes:,}"),
        )
        yield file_line(self.path, q.bytes, self.replaced)
        yield from (f"{what:<14}  {left:>11}  {right:>11}".rstrip() for what, left, right in rows)
        yield (
            f"the same class on {a.agreement:.1%} of {a.images:,} validation images; calibrated on "
            f"{q.images:,} training images"
        )

    def to_json(self) -> dict[str, Any]:
        """The object of `nasctl export`, and under `int8` what is said of it here."""
        return {
            "files": {str(self.path): self.quantised.bytes},
            "replaced": [str(f) for f in self.replaced],
            "params": self.exported.params,
            "parity": self.exported.parity.to_json(),
            **self.exported.card.to_json(),
            "int8": {
                **self.agreement.to_json(),
                "calibration_images": self.quantised.images,
                "float_operators": list(self.quantised.float_operators),
                "bytes": self.quantised.bytes,
                "float_bytes": self.quantised.float_bytes,
                "latency": self.latency.to_json(),
                "float_latency": self.float_latency.to_json(),
                "device": self.device,
                "warnings": list(self.warnings),
            },
        }


def export_int8(
    records: RunRecords,
    architecture: Architecture,
    *,
    build: Callable[[Architecture], nn.Module],
    dataset: Dataset,
    path: Path,
    settings: LatencySettings,
    images: int = CALIBRATION_IMAGES,
    progress: Callable[[str], None] | None = None,
) -> Int8Export:
    """Writes a trained network of a run in int8, after comparing it with the trained one.

    Args:
        build, dataset: see `export_network`.
        path: where to; an earlier export is replaced in one step.
        settings: what latency means in the run; with `runtime=torch` ONNX Runtime is timed.
        images: training images to calibrate with.
        progress: told in words what happens.

    Raises:
        ConfigError: too few images to calibrate with; a path with the ending of another format, or
            something else is there.
        EnvironmentProblemError: as `export_network`; what is to time the files does not answer; an
            operator that the runtime lacks or that cannot be quantised. Nothing is written then.
        ParityError: the float file computes something else than the trained network.
    """
    replaced = check_export(records, architecture.id, path, "onnx")
    say = progress or silent
    size = (architecture.input_shape[1], architecture.input_shape[2])
    training = calibration_images(dataset, size, count=images)
    chosen = spread(len(dataset.val_labels))
    validation = Resized(images=dataset.val_images, size=size, chosen=chosen)
    measured = file_settings(settings)
    try_runtime(measured)  # a program that does not answer is not noticed after all the rest
    with temporary_folder(str(path)) as folder:
        before, after = folder / "float.onnx", folder / "int8.onnx"
        exported = export_network(
            records, architecture, build=build, dataset=dataset, kind="onnx", path=before
        )
        say(f"quantising on {len(training)} training images")
        quantised = quantise(before, training, output=after)
        agreement = agreement_of(before, after, validation, dataset.val_labels[chosen])
        device = this_device(measured).fingerprint
        latencies = latencies_of(
            {"float": before, "int8": after},
            measured,
            canary_ms=_canary_ms(records, device),
            progress=say,
        )
        warnings = _warnings(agreement, quantised, latencies["float"], latencies["int8"])
        with replacing(path) as temporary:
            temporary.write_bytes(after.read_bytes())
    return Int8Export(
        path=path,
        exported=exported,
        quantised=quantised,
        agreement=agreement,
        float_latency=latencies["float"],
        latency=latencies["int8"],
        device=device,
        warnings=tuple(warnings),
        replaced=replaced,
    )


def _canary_ms(records: RunRecords, device: str) -> float | None:
    """Puts the figures on the scale of the run's own latencies, if those are of this device."""
    table = records.latency or {}
    return table.get("reference_network_ms") if table.get("device") == device else None


def _warnings(
    agreement: Agreement, quantised: Quantised, before: WholeLatency, after: WholeLatency
) -> Iterator[str]:
    if not agreement.is_sound:
        yield (
            f"int8 and float name the same class on {agreement.agreement:.1%} of "
            f"{agreement.images:,} validation images, less than {LEAST_AGREEMENT:.0%}: this "
            "network does not bear int8"
        )
    elif not agreement.is_sound_here:
        yield (
            "on this processor ONNX Runtime lets sums of int8 products saturate: the same class on "
            f"{agreement.agreement_here:.1%} of {agreement.images:,} validation images, and on "
            f"{agreement.agreement:.1%} with its session option session.x64quantprecision=1"
        )
    if after.interval[0] > before.interval[1]:
        kept = ", ".join(quantised.float_operators)
        why = f": {kept} stay in float, with conversions around them" if kept else ""
        yield (
            f"int8 is slower than float here, {after.p50_ms:.3g} against {before.p50_ms:.3g} ms"
            f"{why or ': the network is too small to gain'}"
        )
    if quantised.bytes >= quantised.float_bytes:
        yield "the int8 file is larger: what describes its scales outweighs so few weights"
