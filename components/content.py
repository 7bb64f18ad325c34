"""TorchX component of the app `content`, written by `make components`: do not edit.

torchx run -s local_cwd components/content.py:content --data DATA --name NAME --vectors FILE add
torchx run -s local_cwd components/content.py:content --data DATA --name NAME --model DIR encode
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def content(
    *action: str,
    data: str,
    name: str,
    vectors: Optional[str] = None,
    ids: Optional[str] = None,
    made_with: str = "",
    of: Optional[str] = None,
    model: Optional[str] = None,
    columns: Optional[str] = None,
    images: Optional[str] = None,
    image_folder: Optional[str] = None,
    batch: int = 64,
    precision: str = "fp32",
    prompt: Optional[str] = None,
    tokens: Optional[int] = None,
    overwrite: bool = False,
    threads: Optional[int] = None,
    j: str = "1x1",
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Adds vectors that describe items, or the tokens of their texts, to a prepared data set.

    `encode` shares the work among all ranks of a launcher (torchrun, TorchX), continues after a
    kill, and encodes no text or image again that the same model has encoded before.

    Args:
        action: add: take vectors from --vectors. encode: make vectors of the items' texts or images
            with a model. join: put content and priors of items together. tokenize: make tokens of
            the texts, for items.encoder = llm. One of: add, encode, join, tokenize.
        data: Folder of the prepared data set.
        name: Name of the content, as in embedding.content or items.content.
        vectors: add: Parquet file with the columns item_id and vector (lists of numbers), or a .npy
            file with one row for each id of --ids.
        ids: add: item ids of the rows of a .npy file, as text or Parquet (item_id).
        made_with: add: name of the model that made the vectors. Content of this name can later be
            replaced by vectors of the same model only, unless --overwrite is given.
        of: NAME[=WEIGHT],...: join: content and priors of items whose vectors follow one another; a
            weight is the length of this part of an item's vector, by default 1.
        model: encode: folder of a sentence model, or of a vision model with --images, as
            transformers saves it. tokenize: folder with the tokenizer of a language model.
        columns: encode, tokenize: columns of the catalogue, or priors of items, that make up an
            item's text; separate several with commas; by default title.
        images: encode: column of the catalogue with the paths of the items' images, which are
            encoded instead of texts.
        image_folder: encode: folder that relative paths of --images start from; by default '.'.
        batch: encode: number of texts or images computed together.
        precision: encode: precision of matrix products. One of: fp32, bf16.
        prompt: tokenize: the beginning of each text; by default 'Compress the following sentence
            into embedding: '.
        tokens: tokenize: the largest number of tokens of a text; by default 256.
        overwrite: Replace content of this name that was made otherwise.
        threads: encode: the most threads with which each process computes. [cores, or
            OMP_NUM_THREADS]
        j: [min nodes:]nodes x processes per node.
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores per node.
        gpu: GPUs per node.
        memMB: Memory per node, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        data=data,
        name=name,
        vectors=vectors,
        ids=ids,
        made_with=made_with,
        of=of,
        model=model,
        columns=columns,
        images=images,
        image_folder=image_folder,
        batch=batch,
        precision=precision,
        prompt=prompt,
        tokens=tokens,
        overwrite=overwrite,
        threads=threads,
    )

    return application(
        "content",
        options,
        *action,
        j=j,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
