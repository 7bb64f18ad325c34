"""Decides which columns of the sequences a run reads besides items: times and event codes."""

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.run_config import RunConfig


def encoder_columns(config: RunConfig, data: PreparedData) -> tuple[str, ...]:
    """Returns the columns that the encoder and the repeat head read.

    Raises:
        UserError: they need times or event types, and the data set has none.
    """
    _check_times("encoder.time_bias", config.encoder.time_bias, data)
    _check_times("repeats.time_bias", config.repeats.needs_times, data)
    if config.encoder.events and not data.manifest.events:
        raise UserError(
            f"encoder.events: data set '{data.manifest.name}' has no event types: set it to false"
        )

    columns = []
    if config.encoder.time_bias or config.repeats.needs_times:
        columns.append("timestamps")
    if config.encoder.events:
        columns.append("events")
    return tuple(columns)


def training_columns(config: RunConfig, data: PreparedData, tree: PriorTree) -> tuple[str, ...]:
    """Returns the columns that the encoder and the prior tree read in training.

    Raises:
        UserError: the encoder or a prior needs event types, or the encoder or
            `training.shuffle_ties` needs times, and the data set has none.
    """
    _check_times("training.shuffle_ties", config.training.shuffle_ties, data)
    columns = encoder_columns(config, data)
    if "events" not in tree.needs or "events" in columns:
        return columns

    if not data.manifest.events:
        levels = [level for level in tree.levels if "events" in getattr(level, "needs", ())]
        names = ", ".join(f"'{level.name}'" for level in levels)
        raise UserError(
            f"priors.tree: {names} needs events, and data set '{data.manifest.name}' has no event"
            " types"
        )
    return (*columns, "events")


def _check_times(key: str, needed: bool, data: PreparedData) -> None:
    if needed and not data.manifest.has_times:
        raise UserError(
            f"{key}: data set '{data.manifest.name}' has no times, only the order of the"
            " interactions: set it to false"
        )
