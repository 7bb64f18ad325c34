"""A sentence model of `transformers`: turns texts into vectors.

A folder of `sentence-transformers` also says how the vectors of a text's tokens become one vector
(`1_Pooling/config.json`), whether it gets length 1 (`modules.json`), and how many tokens of a text
are read (`sentence_bert_config.json`). Without these files, the vector is the mean over all tokens.

Shapes: B texts, L tokens of the longest text, c width of the vectors.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError

Pooling = Literal["mean", "cls", "max", "last"]

_POOLING = Path("1_Pooling") / "config.json"
# The keys in the configuration of sentence-transformers.
_KEYS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_MOST_TOKENS = 512
_OPTION = "--model"


def checksum_of_model(folder: Path) -> str:
    """Returns a checksum of a model's folder, without its documents and hidden files.

    Raises:
        UserError: the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{_OPTION}: '{folder}' holds no model (no config.json)")
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    lines = [
        f"{file.as_posix()} {sha256(folder / file)}\n"
        for file in files
        if file.suffix != ".md" and not any(part.startswith(".") for part in file.parts)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class SentenceModel:
    """A sentence model in memory.

    Attributes:
        dim: c.
        pooling: how the vectors of tokens become one: their mean or maximum, or the vector of the
            first or the last token.
        normalised: whether vectors get length 1.
        tokens: the number of tokens of a text that are read; later ones are left out.
    """

    def __init__(
        self, folder: Path, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        """Loads a model. Its folder is only read: code in it is not executed.

        Args:
            folder: a folder that `transformers` has written.
            device: where the model computes.
            precision: dtype of the matrix products.

        Raises:
            UserError: the folder holds no model of this kind, or `transformers` is not installed.
        """
        try:
            from transformers import AutoModel, AutoTokenizer  # seconds, and an optional library
        except ImportError as error:
            raise UserError(
                f"{_OPTION} needs transformers: pip install 'torchrec-priors[content]'"
            ) from error

        given = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), **given)
            model = AutoModel.from_pretrained(str(folder), dtype=torch.float32, **given)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{_OPTION}: '{folder}' cannot be loaded ({reason})") from error

        self._model: Any = model.to(device).eval()
        self._device = device
        self._precision = precision
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # Padding follows the text, so that its first and last tokens are found.
        self._tokenizer.padding_side = "right"

        self.dim: int = self._model.config.hidden_size
        self.pooling = _pooling(folder)
        self.normalised = "Normalize" in _text(folder / "modules.json")
        self.tokens = _most_tokens(folder, self._model.config)

    @torch.inference_mode()
    def encode(self, texts: list[str], batch: int) -> np.ndarray:
        """Returns the vector of each text, float32 [B, c].

        Args:
            texts: the texts.
            batch: number of texts that are computed together, which are of similar lengths.
        """
        # Texts of similar lengths are computed together, so that little is padded. The order is
        # the same whenever these texts are encoded, and so are the last bits.
        order = sorted(range(len(texts)), key=lambda number: (len(texts[number]), number))
        vector_Bc = np.zeros((len(texts), self.dim), np.float32)
        for first in range(0, len(texts), batch):
            numbers = order[first : first + batch]
            vectors = self._pooled([texts[number] for number in numbers])
            vector_Bc[numbers] = vectors.cpu().numpy()
        return vector_Bc

    def _pooled(self, texts: list[str]) -> Tensor:
        """Returns the vectors of a batch."""
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.tokens, return_tensors="pt"
        ).to(self._device)
        reduced = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision, enabled=reduced):
            state_BLc: Tensor = self._model(**tokens).last_hidden_state
        vector_Bc = pooled(state_BLc.float(), tokens["attention_mask"], self.pooling)
        if self.normalised:
            vector_Bc = torch.nn.functional.normalize(vector_Bc, dim=1)
        return vector_Bc


def pooled(state_BLc: Tensor, is_token_BL: Tensor, pooling: Pooling) -> Tensor:
    """Turns the vectors of tokens into one vector for each text, [B, c].

    Args:
        state_BLc: the vectors of tokens; padding follows the tokens of a text.
        is_token_BL: 1 for a token, and 0 for padding.
        pooling: see `SentenceModel`.
    """
    if pooling == "cls":
        return state_BLc[:, 0]
    length_B = is_token_BL.sum(1)
    if pooling == "last":
        return state_BLc[torch.arange(len(length_B), device=length_B.device), length_B - 1]

    is_token_BL1 = is_token_BL[:, :, None].bool()
    if pooling == "max":
        return state_BLc.masked_fill(~is_token_BL1, -torch.inf).amax(1)
    return state_BLc.masked_fill(~is_token_BL1, 0.0).sum(1) / length_B[:, None]


def _pooling(folder: Path) -> Pooling:
    """Returns the pooling of a folder; the mean if it does not say."""
    config = _json(folder / _POOLING)
    used = [pooling for key, pooling in _KEYS.items() if config.get(key) is True]
    others = [
        key
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True and key not in _KEYS
    ]
    if len(used) > 1 or others:
        names = ", ".join([*used, *others])
        raise UserError(
            f"{_OPTION}: '{folder / _POOLING}' asks for {names}: one of mean, cls, max and last "
            "token is supported"
        )
    return used[0] if used else "mean"


def _most_tokens(folder: Path, config: Any) -> int:
    """Returns the number of tokens of a text that the model reads."""
    positions = getattr(config, "max_position_embeddings", None) or _MOST_TOKENS
    length = _json(folder / "sentence_bert_config.json").get("max_seq_length") or _MOST_TOKENS
    return min(int(positions), int(length))


def _json(file: Path) -> dict[str, Any]:
    """Returns the object in a file of a model; an empty one if there is no file."""
    text = _text(file)
    if not text:
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{_OPTION}: '{file}' is not JSON") from error
    return values if isinstance(values, dict) else {}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf8") if file.is_file() else ""
