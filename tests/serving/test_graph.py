"""The encoder and the heads as a graph give the queries of the model, for any batch and length."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch

from torchrec_priors import load_run
from torchrec_priors.apps import command
from torchrec_priors.apps import export as app
from torchrec_priors.config import parse
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.serving import graph
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported

DOCUMENT = Path(__file__).parents[2] / "docs/serving.md"
SETTINGS = tiny.settings(
    model={"context": 20, "score": "cosine"},
    encoder={"layers": 2},
    priors={"tree": ["temporal:2", "genre"], "init_std": 0.3},
    negatives={"per_set": 10},
    table={"init_std": 1.0},
    training={"batch": 8, "steps": 2},
    evaluation={"batch": 8},
)
MODELS = {
    "hstu": {},
    "sasrec": {"model": {"score": "dot"}, "encoder": {"backbone": "sasrec"}},
    "shallow": {"encoder": {"backbone": "shallow"}, "priors": {"adapters": "vector"}},
    "managed": {
        "embedding": {"unseen": "managed", "rows": 120, "blocks": 4, "eviction_interval": 1}
    },
}
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="pip install 'torchrec-priors[onnx]'",
)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """`exported(name)`: the export of one of `MODELS`, in memory."""

    def load(name):
        run = trained(parse(tiny.merged(SETTINGS, **MODELS[name])))
        out = tmp_path_factory.mktemp("exported") / name
        with load_run(run) as loaded:
            export(loaded, out)
        return load_exported(out)

    return load


@pytest.mark.parametrize(
    "name", ["hstu", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MODELS)[1:])]
)
def test_padded_histories_give_the_queries_of_the_model(exported, name):
    """What the padding holds has no effect."""
    model = exported(name)
    rows = torch.nonzero(model.has_row_I).squeeze(1).tolist()
    histories = [rows[:3], rows[5:6], rows[7:27]]
    vectors, lengths = graph.padded_inputs(model, histories)
    vectors[1, 1:] = 1e3
    with torch.no_grad():
        queries = model.padded()(vectors, lengths)
    spread = 0.0
    for history, query_Kd in zip(histories, queries, strict=True):
        expected_Kd = model.queries([model.item_ids[row].as_py() for row in history])
        torch.testing.assert_close(query_Kd, expected_Kd, atol=1e-5, rtol=1e-5)
        spread = max(spread, float((expected_Kd - expected_Kd[0]).abs().max()))
    assert spread > 0.01, "heads differ"


def test_what_cannot_be_a_graph_is_refused(exported, trained, tmp_path, monkeypatch):
    baseline = {"encoder": {"backbone": "shallow"}, "baseline": {"name": "dualvae"}}
    options = {"priors": {"tree": [], "init_std": 0.0}, "model": {"score": "dot"}}
    run = trained(parse(tiny.merged(SETTINGS, **baseline, **options)))
    with load_run(run) as loaded, pytest.raises(UserError, match=r"baseline model \(dualvae\)"):
        export(loaded, tmp_path / "out", finish=lambda folder: graph.add_graph(folder, "onnx"))
    assert not list(tmp_path.iterdir()), "an export appears only when it is complete"

    monkeypatch.setattr(
        graph, "_write_onnx", lambda *_: lambda vectors, lengths: vectors[:, :1] + 1
    )
    with pytest.raises(OutsideError, match="differ from those of the model by"):
        graph.write_graph(exported("hstu"), tmp_path, "onnx")

    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        graph.check_format("aoti")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"torchrec-priors\[onnx\]"):
        graph.check_format("onnx")


@needs_onnx
def test_onnx_by_the_command_and_the_program_of_the_document(
    trained, tmp_path, capsys, monkeypatch
):
    run = trained(parse(SETTINGS))
    out = tmp_path / "exported" / "onnx"
    with pytest.raises(SystemExit) as ended:
        command.run(app.export, ["--run", str(run), "--out", str(out), "--format", "onnx"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert "queries.onnx: its queries differ from those of the model by at most" in said.out
    about = json.loads((out / "export.json").read_text())
    assert 0 < about["graph"]["largest_difference"] < 1e-5
    assert set(about["files"]) >= {"queries.onnx", "items.parquet"}

    text = DOCUMENT.read_text(encoding="utf8")
    (program,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "onnxruntime" in code
    ]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(program.replace("[50, 172, 181]", "[5, 50, 7]"), str(DOCUMENT), "exec"), names)
    expected_Kd = load_exported(out).queries([5, 50, 7])
    torch.testing.assert_close(
        torch.from_numpy(names["queries"][0]), expected_Kd, atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_package(exported, tmp_path):
    assert graph.write_graph(exported("hstu"), tmp_path, "aoti") < 1e-5
    assert (tmp_path / "queries.pt2").stat().st_size > 1000


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "shallow", "managed"])
def test_onnx_of_other_models(exported, tmp_path, name):
    assert graph.write_graph(exported(name), tmp_path, "onnx") < 1e-5
