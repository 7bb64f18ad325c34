"""A sentence model encodes the texts of items: as transformers does, once, on any number of ranks, after any kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from distributed.ranks import run_on_ranks
from edited_manifest import describe_again

pytest.importorskip("transformers", reason="needs the extra `content`")

from sentences import write_model

from torchrec_priors.content import encode
from torchrec_priors.content.sentence_model import SentenceModel, pooled
from torchrec_priors.content.source import texts_of
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.content import read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import verify
from torchrec_priors.ranks.process import join

PIECE = 16  # texts; ten pieces


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def data(small_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(small_data, folder)
    return folder


def run(data, model, name="text", columns=("title",), **options):
    encode.PIECE = PIECE
    with join() as ranks:
        prepared = PreparedData(data)
        source = texts_of(prepared, list(columns))
        return encode.encode_items(prepared, name, model, source, ranks, **options)


def test_vectors_are_those_of_transformers_for_each_pooling(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    texts = ["Toy Story", "It", "A much longer title, of the year 1995"]
    keys = {
        "pooling_mode_mean_tokens": lambda state: state.mean(0),
        "pooling_mode_cls_token": lambda state: state[0],
        "pooling_mode_max_tokens": lambda state: state.amax(0),
        "pooling_mode_lasttoken": lambda state: state[-1],
    }
    for key, expected in keys.items():
        folder = write_model(tmp_path / key, pooling=key)
        vectors = SentenceModel(folder, torch.device("cpu")).encode(texts, batch=3)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        network = AutoModel.from_pretrained(folder).eval()
        for text, vector in zip(texts, vectors, strict=True):
            # One text at a time has no padding.
            with torch.no_grad():
                state = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            wanted = torch.nn.functional.normalize(expected(state), dim=0)
            torch.testing.assert_close(torch.from_numpy(vector), wanted, atol=1e-5, rtol=1e-5)


def test_padding_is_never_pooled():
    state = torch.randn(2, 5, 3)
    is_token = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    other = state.clone()
    other[0, 2:] = 1e6
    for pooling in ("mean", "cls", "max", "last"):
        assert torch.equal(pooled(state, is_token, pooling), pooled(other, is_token, pooling))


def test_unchanged_texts_are_not_encoded_again(data, model, monkeypatch):
    asked = []
    encode_texts = SentenceModel.encode
    monkeypatch.setattr(
        SentenceModel,
        "encode",
        lambda self, texts, batch: asked.extend(texts) or encode_texts(self, texts, batch),
    )
    first = run(data, model)
    assert (first.values, first.known, first.resumed, len(asked)) == (150, 0, 0, 150)
    verify(data)
    before = read_content(PreparedData(data), "text")
    assert before.vector_Mc.shape == (150, 16)

    # The same texts under another name, and then three changed titles.
    assert run(data, model, "again").known == 150
    asked.clear()
    catalogue = pq.read_table(data / "items.parquet")
    titles = catalogue["title"].to_pylist()
    titles[3:6] = ["changed", "changed", ""]
    place = catalogue.column_names.index("title")
    changed = catalogue.set_column(place, "title", [titles])
    pq.write_table(changed, data / "items.parquet")
    describe_again(data, "items.parquet")
    second = run(data, model)
    assert asked == ["changed"], "two items with the same text are one, and no text is none"
    assert second.info.items == 149
    after = read_content(PreparedData(data), "text")
    assert 5 not in after.item_M
    others = [item for item in range(150) if item not in (3, 4, 5)]
    row = dict(zip(after.item_M, after.vector_Mc, strict=True))
    assert all(np.array_equal(row[item], before.vector_Mc[item]) for item in others)
    assert np.array_equal(row[3], row[4])
    assert not list(data.parent.glob(".data.content-*")), "nothing is left beside the data"


def test_vectors_in_bf16_are_others_and_almost_the_same(data, model):
    run(data, model)
    with pytest.raises(UserError, match="was made otherwise"):
        run(data, model, precision="bf16")
    encoded = run(data, model, "narrow", precision="bf16")
    assert encoded.known == 0
    assert encoded.info.made_by["precision"] == "bf16"
    before, narrow = (read_content(PreparedData(data), name) for name in ("text", "narrow"))
    cosines = [np.dot(*pair) / np.prod([np.linalg.norm(v) for v in pair])
               for pair in zip(before.vector_Mc, narrow.vector_Mc, strict=True)]  # fmt: skip
    assert not np.array_equal(before.vector_Mc, narrow.vector_Mc)
    assert min(cosines) > 0.999


def test_another_model_does_not_replace_vectors_by_accident(data, model, tmp_path):
    run(data, model)
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="was made otherwise"):
        run(data, other)
    with pytest.raises(UserError, match="was made otherwise"):
        run(data, model, columns=("title", "genre"))
    before = read_content(PreparedData(data), "text").vector_Mc
    assert run(data, other, overwrite=True).known == 0
    assert not np.array_equal(read_content(PreparedData(data), "text").vector_Mc, before)


def test_an_interrupted_command_continues_with_the_same_result(data, model, monkeypatch, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    run(whole, model)
    encode_texts = SentenceModel.encode
    done = []

    def fail_at_the_fourth(self, texts, batch):
        if len(done) == 3:
            raise MemoryError
        done.append(texts)
        return encode_texts(self, texts, batch)

    monkeypatch.setattr(SentenceModel, "encode", fail_at_the_fourth)
    with pytest.raises(MemoryError):
        run(data, model)
    # A piece that was damaged meanwhile is encoded again.
    work = data.parent / ".data.content-text"
    damaged = sorted(work.glob("*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    monkeypatch.setattr(SentenceModel, "encode", encode_texts)
    assert run(data, model).resumed == 2 * PIECE
    for name in ("item_M", "vector_Mc"):
        ours, theirs = (getattr(read_content(PreparedData(f), "text"), name) for f in (data, whole))
        assert np.array_equal(ours, theirs)


def test_mistakes_are_named(data, model, tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        run(data, tmp_path)
    with pytest.raises(UserError, match="no column or prior of items 'plot'"):
        run(data, model, columns=("plot",))
    broken = write_model(tmp_path / "broken", pooling="pooling_mode_weightedmean_tokens")
    with pytest.raises(UserError, match="asks for pooling_mode_weightedmean_tokens"):
        run(data, broken)


SLOW = """
import sys, time
from pathlib import Path
from torchrec_priors.content import encode
from torchrec_priors.content.sentence_model import SentenceModel
from torchrec_priors.content.source import texts_of
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
encode.PIECE = {piece}
of_model = SentenceModel.encode
def slowly(self, texts, batch):
    time.sleep(0.5)
    return of_model(self, texts, batch)
SentenceModel.encode = slowly
with join() as ranks:
    data = PreparedData(sys.argv[1])
    encode.encode_items(data, "text", Path(sys.argv[2]), texts_of(data, ["title"]), ranks)
"""


@pytest.mark.slow
def test_after_kill_9_pieces_are_kept_on_two_ranks(data, model, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    run(whole, model)

    script = SLOW.format(piece=PIECE)
    process = subprocess.Popen([sys.executable, "-c", script, str(data), str(model)])
    work = Path(data.parent / ".data.content-text")
    while len(list(work.glob("*.parquet"))) < 3 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len([file for file in work.glob("*.parquet") if not file.name.startswith(".")])
    assert 3 <= kept < 10

    first, second = run_on_ranks(2, run, data, model)
    assert first.resumed == second.resumed == kept * PIECE
    assert first.info == second.info
    ours, theirs = (read_content(PreparedData(folder), "text") for folder in (data, whole))
    assert np.array_equal(ours.vector_Mc, theirs.vector_Mc)
