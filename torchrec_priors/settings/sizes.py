"""The sizes of HSTU in the paper's Table 5, which `model.size` selects."""

from typing import Any

from torchrec_priors.errors import UserError, nearest

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "paper-1": {"model": {"dim": 128}, "encoder": {"layers": 4, "heads": 4, "dropout": 0.1}},
    "paper-2": {"model": {"dim": 256}, "encoder": {"layers": 8, "heads": 8, "dropout": 0.1}},
    "paper-3": {"model": {"dim": 512}, "encoder": {"layers": 12, "heads": 8, "dropout": 0.2}},
    "paper-4": {"model": {"dim": 1024}, "encoder": {"layers": 16, "heads": 16, "dropout": 0.2}},
    "paper-1B": {"model": {"dim": 2048}, "encoder": {"layers": 22, "heads": 32, "dropout": 0.4}},
}


def with_size(values: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration's values; keys that it lacks get the values of its `model.size`.

    Raises:
        UserError: the size does not exist.
    """
    model = values.get("model")
    size = model.get("size", "") if isinstance(model, dict) else ""
    if size == "" or not isinstance(size, str):
        return values  # a wrong type is rejected later, together with all other wrong types
    if size not in SIZES:
        raise UserError(f"model.size = '{size}': {nearest(size, SIZES)}")

    # Values that are given are kept.
    filled = dict(values)
    for section, defaults in SIZES[size].items():
        given = values.get(section, {})
        filled[section] = {**defaults, **given} if isinstance(given, dict) else given
    return filled
