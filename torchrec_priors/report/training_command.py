"""The commands that train a model of the page again, and evaluate it."""

import shlex
from dataclasses import asdict
from typing import Any

from torchrec_priors.config import parse, read_override, with_changes, write_override
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.matrix import file_name, flat
from torchrec_priors.report.result import Result
from torchrec_priors.settings.run_config import RunConfig


def training_commands(result: Result) -> list[list[str]]:
    """Returns the commands as words, which are quoted for a shell.

    The settings that are not the defaults are given as overrides, so the commands need no file of
    this run. If overrides cannot express the configuration, its file is named.

    Args:
        result: an evaluation of the model.
    """
    config = result.run.config()
    origin = result.run.origin()
    run = f"runs/{file_name(result.label)}-seed{result.seed}"

    train = ["torchrec-priors", "train"]
    overrides = overrides_of(config)
    if overrides is None:
        train += ["--config", str(result.run.path / "config.toml")]
    train += ["--data", str(origin.path), "--run", run]
    if origin.init_from:
        train += ["--init-from", origin.init_from]
    train += overrides or []

    evaluate = ["torchrec-priors", "evaluate", "--run", run, "--split", result.split]
    name = result.folder.name[len(result.split) + 1 :]
    if name:
        evaluate += ["--name", name]
    evaluate += result.metrics.get("overrides", [])
    return [[shlex.quote(word) for word in command] for command in (train, evaluate)]


def overrides_of(config: RunConfig) -> list[str] | None:
    """Returns the overrides that make a configuration from the defaults.

    Returns:
        texts such as `model.dim=64`; None if overrides cannot express the configuration.
    """
    # With `model.size`, the defaults of some keys are others.
    size = config.model.size
    sized: dict[str, Any] = {"model": {"size": size}} if size else {}
    default = flat(asdict(parse(sized)))
    overrides = [write_override("model.size", size)] if size else []
    for key, value in flat(asdict(config)).items():
        if key != "model.size" and (key not in default or default[key] != value):
            overrides.append(write_override(key, value))

    # A key of a dictionary may have a dot, and a value may have no form in TOML.
    try:
        again = with_changes({}, map(read_override, overrides))
    except UserError:
        return None
    return overrides if again == config else None
