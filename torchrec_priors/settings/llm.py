"""The sections `[encoder.llm]` and `[items.llm]`: the language models of users and items."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Section

CONFIG = "config.json"
# Keys of `config.json` that do not describe the network: where it came from, and how it was saved.
_OF_THE_FILE = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
)


@dataclass
class LLMConfig(Section):
    """The language model of `encoder.backbone = "llm"` or `items.encoder = "llm"`.

    Attributes:
        folder: a folder with `config.json` and weights in safetensors, which become the initial
            values of the model; empty for random initial values. It is read when a run starts, and
            is not needed afterwards.
        config: the configuration of the model, with the keys of a `config.json` of `transformers`,
            such as `model_type` and `hidden_size`. With `folder`, keys that are given here replace
            those of the folder's `config.json`, and a run's `config.toml` has all of them.
    """

    folder: str = ""
    config: dict[str, JsonValue] = field(default_factory=dict)

    def check(
        self, *, used: bool, key: str = "encoder.llm", setting: str = "encoder.backbone"
    ) -> None:
        """Checks that the section is given if, and only if, it is used.

        Args:
            used: whether `setting` is `llm`.
            key: the name of the section.
            setting: the setting that decides whether it is used.

        Raises:
            UserError: the section is missing, or is given and not used.
        """
        if not used:
            if self.folder or self.config:
                raise UserError(f'{key} is for {setting} = "llm": set it, or remove the section')
            return
        if not self.folder and not isinstance(self.config.get("model_type"), str):
            raise UserError(
                f'{setting} = "llm" needs {key}.folder, or {key}.config with at least a '
                'model_type, such as "llama"'
            )

    def resolved(self, key: str = "encoder.llm") -> "LLMConfig":
        """Returns the section with the configuration that is in the folder, if there is a folder.

        The path of the folder becomes absolute. If the folder is gone and `config` is complete, as
        in the file of a run, `config` stays as it is.

        Args:
            key: the name of the section.

        Raises:
            UserError: the folder has no configuration that can be read.
        """
        if not self.folder:
            return self
        folder = Path(self.folder).absolute()
        if not folder.exists() and "model_type" in self.config:
            return LLMConfig(str(folder), self.config)
        return LLMConfig(str(folder), {**_read(folder, key), **self.config})


def _read(folder: Path, key: str) -> dict[str, JsonValue]:
    """Reads the keys of `config.json` that describe the network."""
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(
            f"{key}.folder: there is no '{file}': name a folder that `save_pretrained` of "
            "transformers has written"
        )
    try:
        values = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}.folder: '{file}' cannot be read: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UserError(f"{key}.folder: '{file}' names no model_type: give another folder")

    # TOML has no null. A missing key has its default, which null stands for.
    return {
        name: _without_null(value)
        for name, value in values.items()
        if name not in _OF_THE_FILE and value is not None
    }


def _without_null(value: JsonValue) -> JsonValue:
    """Returns a value without those keys of nested sections whose value is null."""
    if not isinstance(value, dict):
        return value
    return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
