"""Layer 3: a network of a run, by its id."""

from __future__ import annotations

from collections.abc import Mapping

from nasctl.arch import Architecture, Block, Opaque
from nasctl.errors import ConfigError, nearest
from nasctl.records import RunRecords
from search_spaces.blocks import BLOCKS


def find_network(
    records: RunRecords, arch_id: str, block_types: Mapping[str, type[Block]] | None = None
) -> Architecture:
    """The network of a run whose id begins so.

    Args:
        records: of the run.
        arch_id: the start of an id is enough if only one begins with it.
        block_types: with those of plugins, if its networks have them.

    Raises:
        ConfigError: no network, or several; blocks without a module.
    """
    run = f"{records.directory}:{arch_id}"
    known = {t.arch_id: t.architecture for t in (*records.trials(), *records.references())}
    found = [i for i in known if i.startswith(arch_id)]
    if not found or not arch_id:
        guess = nearest(arch_id, known)
        where = "has those of all arms" if records.is_ablation else "lists some"
        view = "its report.csv" if records.is_ablation else f"nasctl front {records.directory}"
        hint = f"; did you mean {guess}?" if guess else f"; {view} {where}"
        raise ConfigError(f"{run}: no such network among the {len(known)} here{hint}")
    if len(found) > 1:
        shown = ", ".join(sorted(found)[:5]) + (", ..." if len(found) > 5 else "")
        raise ConfigError(f"{run}: {len(found)} networks begin so: {shown}")
    architecture = known[found[0]]
    if block_types is not None:
        architecture = Architecture.from_json(architecture.to_json(), block_types)
    opaque = [b.op for b in architecture.blocks if isinstance(b, Opaque)]
    if opaque:
        # One unknown block makes all of them opaque: name the one that is meant.
        strange = next((op for op in opaque if op not in (block_types or BLOCKS)), opaque[0])
        raise ConfigError(
            f"{records.directory}:{found[0]}: block {strange!r} has no module here to look into; "
            "--plugin MODULE brings the blocks of a plugin (a table's have none)"
        )
    return architecture
