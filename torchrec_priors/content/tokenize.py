"""Makes tokens of the texts of a data set's items, for a language model that reads items.

An item's text is a prompt, followed by "column: value" for each of its columns, as in HLLM (Chen et
al., arXiv 2409.12740). Items without any value have no tokens.

Shapes: M items with a text, V tokens of all of them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, no_such_folder
from torchrec_priors.parquet import write_table
from torchrec_priors.preparation.content.put import check_replaceable, folder_of, put_file
from torchrec_priors.preparation.content.texts import item_texts
from torchrec_priors.prepared.content import ITEM
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo
from torchrec_priors.prepared.tokens import TOKENS

PROMPT = "Compress the following sentence into embedding: "
MOST_TOKENS = 256

_TEXTS_AT_ONCE = 1 << 12
_OPTION = "--model"


def tokenize_items(
    data: PreparedData,
    name: str,
    model: Path,
    columns: list[str],
    *,
    prompt: str = PROMPT,
    tokens: int = MOST_TOKENS,
    overwrite: bool = False,
) -> ContentInfo:
    """Adds the tokens of items' texts to a data set. Returns their description.

    Args:
        data: the data set.
        name: the name of the content.
        model: a folder with the tokenizer of a language model, which is only read.
        columns: where the texts come from (`item_texts`).
        prompt: the beginning of each text.
        tokens: the largest number of tokens of a text; later ones are left out.
        overwrite: whether content that was made otherwise may be replaced.

    Raises:
        UserError: the name is taken, a column does not exist, no item has a text, or the tokenizer
            cannot be loaded.
    """
    folder_of(data)
    tokenizer = _load(model)
    settings = json.dumps([_checksum(tokenizer), columns, prompt, tokens])
    identity = f"tokens: {hashlib.sha256(settings.encode()).hexdigest()}"
    check_replaceable(data.manifest, name, identity, overwrite)

    text_I = item_texts(data, columns, named=True)
    has_text_I = pc.not_equal(text_I, "").to_numpy(zero_copy_only=False)
    if not has_text_I.any():
        raise UserError(f"--columns: no item has a text in {', '.join(columns)}")
    item_M = np.flatnonzero(has_text_I)
    texts = text_I.filter(pa.array(has_text_I)).to_pylist()

    lists: list[list[int]] = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        part = [prompt + text for text in texts[first : first + _TEXTS_AT_ONCE]]
        lists += tokenizer(part, truncation=True, max_length=tokens)["input_ids"]
    if not min(map(len, lists)):
        raise UserError(f"{_OPTION}: the tokenizer of '{model}' makes no token of some texts")

    made_by = {
        "kind": "tokens",
        "model": model.name,
        "columns": columns,
        "prompt": prompt,
        "tokens": tokens,
        "vocabulary": len(tokenizer),
    }
    info = ContentInfo(name, len(item_M), tokens, identity, made_by)
    table = pa.table(
        {ITEM: pa.array(item_M.astype(np.int32)), TOKENS: pa.array(lists, pa.list_(pa.int32()))}
    )
    put_file(data, info, lambda file: write_table(table, file), overwrite=overwrite)
    return info


def _load(folder: Path) -> Any:
    """Loads the tokenizer of a folder. Code in the folder is not executed."""
    if not folder.is_dir():
        raise UserError(f"{_OPTION}: {no_such_folder(folder)}")
    try:
        from transformers import AutoTokenizer  # seconds, and an optional library
    except ImportError as error:
        raise UserError(
            f"{_OPTION} needs transformers: pip install 'torchrec-priors[llm]'"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{_OPTION}: '{folder}' holds no tokenizer ({reason})") from error


def _checksum(tokenizer: Any) -> str:
    """Returns a checksum of everything that decides the tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content = json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    else:
        content = backend.to_str()
    return hashlib.sha256(content.encode()).hexdigest()
