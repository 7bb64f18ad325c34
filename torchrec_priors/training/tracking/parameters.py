"""The hyper-parameters of a run, as trackers store them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.tracking.tracker import Parameter, TrackedRun


def tracked_run(
    config: RunConfig, data: PreparedData, folder: RunFolder, ranks: int, first_step: int
) -> TrackedRun:
    """Describes a run whose folder has its records, for trackers.

    Args:
        ranks: the number of processes.
        first_step: the number of steps that are completed.
    """
    manifest = data.manifest
    about: dict[str, Parameter] = {
        "data.name": manifest.name,
        "data.sha256": manifest.content_sha256,
        "data.users": data.users,
        "data.items": data.items,
        "ranks": ranks,
    }
    return TrackedRun(
        name=folder.path.absolute().name,
        run_id=folder.origin().run_id,
        folder=folder.path,
        first_step=first_step,
        parameters=dict(_flat(asdict(config))) | about,
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    """Yields all settings with dotted keys; lists become texts."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, bool | int | float | str):
            yield key, value
        else:
            yield key, str(value)
