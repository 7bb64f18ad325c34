"""The app `content`: adds vectors that describe items to a prepared data set."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.progress import stages
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.content.add import add_vectors, counted
from torchrec_priors.preparation.content.join import Part, join_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.variables import read_launch


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"


class Action(StrEnum):
    ADD = "add"
    ENCODE = "encode"
    JOIN = "join"
    TOKENIZE = "tokenize"


def content(
    action: Annotated[
        Action,
        Argument(
            help="add: take vectors from --vectors. encode: make vectors of the items' texts or "
            "images with a model. join: put content and priors of items together. tokenize: make "
            "tokens of the texts, for items.encoder = llm."
        ),
    ],
    data: Annotated[str, Option(metavar="PATH", help="Folder of the prepared data set.")],
    name: Annotated[
        str, Option(help="Name of the content, as in embedding.content or items.content.")
    ],
    vectors: Annotated[
        Path | None,
        Option(
            help="add: Parquet file with the columns item_id and vector (lists of numbers), or a "
            ".npy file with one row for each id of --ids."
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        Option(help="add: item ids of the rows of a .npy file, as text or Parquet (item_id)."),
    ] = None,
    made_with: Annotated[
        str,
        Option(
            help="add: name of the model that made the vectors. Content of this name can later be "
            "replaced by vectors of the same model only, unless --overwrite is given."
        ),
    ] = "",
    of: Annotated[
        str | None,
        Option(
            metavar="NAME[=WEIGHT],...",
            help="join: content and priors of items whose vectors follow one another; a weight is "
            "the length of this part of an item's vector, by default 1.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        Option(
            help="encode: folder of a sentence model, or of a vision model with --images, as "
            "transformers saves it. tokenize: folder with the tokenizer of a language model."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        Option(
            help="encode, tokenize: columns of the catalogue, or priors of items, that make up an "
            "item's text; separate several with commas; by default title."
        ),
    ] = None,
    images: Annotated[
        str | None,
        Option(
            metavar="COLUMN",
            help="encode: column of the catalogue with the paths of the items' images, which are "
            "encoded instead of texts.",
        ),
    ] = None,
    image_folder: Annotated[
        Path | None,
        Option(help="encode: folder that relative paths of --images start from; by default '.'."),
    ] = None,
    batch: Annotated[
        int,
        Option(min=1, max=1 << 16, help="encode: number of texts or images computed together."),
    ] = 64,
    precision: Annotated[
        Precision, Option(help="encode: precision of matrix products.")
    ] = Precision.FP32,
    prompt: Annotated[
        str | None,
        Option(
            help="tokenize: the beginning of each text; by default 'Compress the following "
            "sentence into embedding: '."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        Option(
            min=1,
            max=1 << 16,
            help="tokenize: the largest number of tokens of a text; by default 256.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        Option("--overwrite", help="Replace content of this name that was made otherwise."),
    ] = False,
    threads: Annotated[int | None, Option(help=f"encode: t{THREADS[1:]}")] = None,
) -> None:
    """Adds vectors that describe items, or the tokens of their texts, to a prepared data set.

    `encode` shares the work among all ranks of a launcher (torchrun, TorchX), continues after a
    kill, and encodes no text or image again that the same model has encoded before.
    """
    check_threads(threads)
    prepared = PreparedData(data)
    of_add = {
        "--vectors": vectors is not None,
        "--ids": ids is not None,
        "--made-with": bool(made_with),
    }
    of_models = {
        "--model": model is not None,
        "--columns": columns is not None,
        "--threads": threads is not None,
        **_of_encode(images, image_folder),
        **_of_tokenize(prompt, tokens),
    }
    if action == Action.JOIN:
        if of is None:
            raise UserError("content join needs the names of its parts: --of text,genre")
        _refuse("join", of_add | of_models)
        _check_single("join")
        parts = [Part.parse(part) for part in _names(of)]
        info = join_content(prepared, name, parts, overwrite=overwrite)
        print("\n".join(counted(prepared, info)))
        return

    _refuse(action, {"--of": of is not None})
    if action == Action.ADD:
        if vectors is None:
            raise UserError("content add needs the file of the vectors: --vectors FILE")
        _refuse("add", of_models)
        _check_single("add")
        added = add_vectors(prepared, name, vectors, ids, made_with=made_with, overwrite=overwrite)
        print("\n".join(added.messages))
        return

    if model is None:
        what = "a model" if action == Action.ENCODE else "a tokenizer"
        raise UserError(f"content {action} needs the folder of {what}: --model FOLDER")
    _refuse(action, of_add)
    names = _names(columns)
    if action == Action.TOKENIZE:
        _refuse("tokenize", {"--threads": threads is not None, **_of_encode(images, image_folder)})
        _check_single("tokenize")
        _tokenize(prepared, name, model, names, prompt, tokens, overwrite)
        return
    _refuse("encode", _of_tokenize(prompt, tokens))
    if images is not None and columns is not None:
        raise UserError(
            "--images and --columns: an item is encoded by its image or its text: leave one out"
        )
    if images is None and image_folder is not None:
        raise UserError("--image-folder is for --images: leave it out")
    use_threads(threads)
    _encode(
        prepared, name, model, names, images, image_folder or Path(), batch, precision, overwrite
    )


def _tokenize(
    data: PreparedData,
    name: str,
    model: Path,
    columns: list[str],
    prompt: str | None,
    tokens: int | None,
    overwrite: bool,
) -> None:
    """Runs `content tokenize`."""
    # It imports transformers, which `content add` does not need.
    from torchrec_priors.content.tokenize import MOST_TOKENS, PROMPT, tokenize_items

    info = tokenize_items(
        data,
        name,
        model,
        columns,
        prompt=PROMPT if prompt is None else prompt,
        tokens=tokens or MOST_TOKENS,
        overwrite=overwrite,
    )
    print("\n".join(counted(data, info)))


def _encode(
    data: PreparedData,
    name: str,
    model: Path,
    columns: list[str],
    images: str | None,
    image_folder: Path,
    batch: int,
    precision: Precision,
    overwrite: bool,
) -> None:
    """Runs `content encode` on all ranks."""
    # These import torch, which `content add` does not need.
    from torchrec_priors.content.encode import encode_items
    from torchrec_priors.content.source import images_of, texts_of
    from torchrec_priors.ranks.process import join

    with join() as ranks:
        with stages() as report:
            if images is None:
                source = texts_of(data, columns)
            else:
                source = images_of(data, images, image_folder)
            encoded = encode_items(
                data,
                name,
                model,
                source,
                ranks,
                batch=batch,
                precision=precision.value,
                overwrite=overwrite,
                report=report if ranks.leads else lambda _: None,
            )
        if not ranks.leads:
            return

    lines = counted(data, encoded.info)
    if source.missing:
        lines.append(f"{source.missing:,} images of items do not exist")
    unreadable = encoded.info.made_by["unreadable"]
    if unreadable:
        lines.append(f"{unreadable:,} {source.kind} of items cannot be read")
    new = encoded.values - encoded.known - encoded.resumed
    lines.append(
        f"{encoded.values:,} distinct {source.kind}: {new:,} were encoded now, "
        f"{encoded.resumed:,} before this command was interrupted, {encoded.known:,} earlier"
    )
    print("\n".join(lines))


def _names(columns: str | None) -> list[str]:
    """Returns the names of columns that are separated by commas."""
    given = "title" if columns is None else columns
    return [column.strip() for column in given.split(",") if column.strip()]


def _check_single(action: str) -> None:
    """Raises UserError if a launcher has started several processes."""
    launch = read_launch()
    if launch is not None and launch.world > 1:
        raise UserError(
            f"content {action} is a single process, but a launcher started {launch.world}: "
            "start one"
        )


def _of_encode(images: str | None, image_folder: Path | None) -> dict[str, bool]:
    """Returns the options that only `encode` has for images, and whether they were given."""
    return {"--images": images is not None, "--image-folder": image_folder is not None}


def _of_tokenize(prompt: str | None, tokens: int | None) -> dict[str, bool]:
    """Returns the options that only `tokenize` has, and whether they were given."""
    return {"--prompt": prompt is not None, "--tokens": tokens is not None}


def _refuse(action: str, given: dict[str, bool]) -> None:
    """Raises UserError if an option was given that the action does not have."""
    for option, is_given in given.items():
        if is_given:
            raise UserError(f"{option} is not an option of content {action}: leave it out")


def main() -> None:
    command.run(content)


if __name__ == "__main__":
    main()
