"""Runs with content: trained, resumed, evaluated, exported; new items are recommended at once, by their content."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from distributed.ranks import run_on_ranks
from grown_data import earlier_state, grown_from
from run_files import losses

from torchrec_priors.data.histories import history_batches
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.content.add import add_vectors
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported
from torchrec_priors.serving.run import load_run

WIDTH = 6
ITEMS = 110  # of 150, in the earlier state
RARE = {"content": "text", "unseen": "content", "min_frequency": 12, "id_dropout": 0.3}
EMBEDDING = {
    "rare": RARE,
    "own": {"content": "text", "id_dropout": 0.5},
    "without ids": {"content": "text", "unseen": "content", "ids": False},
    "mapped": RARE | {"map_content": True},
}
COSINES = {"model": {"score": "cosine"}}  # of the run "mapped"


def config_of(name, **more):
    return config(EMBEDDING[name], **(COSINES if name == "mapped" else {}), **more)


def config(embedding, **more):
    sections = {
        "priors": {"tree": ["temporal:2", "genre"]},
        "loss": {"gate": 1.0},
        "table": {"init_std": 0.3},
        "negatives": {"catalogue_share": 0.2, "popularity": 0.5, "logq": True},
    }
    return tiny.config(embedding=embedding, **(sections | more))


def describe(data, items, folder, made_with="one", seed=0):
    """Adds vectors of all items but every tenth; those of an item depend only on its id."""
    ids = PreparedData(data).catalogue(["item_id"])["item_id"].to_pylist()[:items]
    chosen = [item for place, item in enumerate(ids) if place % 10]
    random = [np.random.default_rng([seed, item]).normal(size=WIDTH) for item in chosen]
    file = folder / f"{made_with}-{items}.parquet"
    pq.write_table(pa.table({"item_id": chosen, "vector": random}), file)
    add_vectors(PreparedData(data), "text", file, made_with=made_with, overwrite=True)


@pytest.fixture(scope="module")
def states(small_data, tmp_path_factory):
    """The data set when it had 110 items, and now, each with content for its items."""
    folder = tmp_path_factory.mktemp("states")
    then = earlier_state(small_data, folder / "then", ITEMS)
    now = grown_from(small_data, then, folder / "now")
    describe(then, ITEMS, folder)
    describe(now, 150, folder)
    return then, now


@pytest.fixture(scope="module")
def runs(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in EMBEDDING:
        tiny.train(config_of(name), states[0], folder / name)
    return {name: folder / name for name in EMBEDDING}


@pytest.mark.parametrize("name", ["rare", "without ids", "mapped"])
def test_new_items_are_recommended_at_once_within_their_groups(runs, states, tmp_path, name):
    with load_run(runs[name], states[1]) as run:
        rows = run.model.item_rows
        new = np.arange(ITEMS, 150)
        described = new[new % 10 > 0]
        assert rows.recommendable_I[described].all()
        assert not rows.recommendable_I[new[new % 10 == 0]].any(), "they have neither part"

        # A history of new items alone, and lists of new items alone.
        history = [run.catalogue.item_id(int(item)) for item in described[:3]]
        allowed = [run.catalogue.item_id(int(item)) for item in described]
        answer = run.recommend(history, k=20, allow=allowed)
        assert answer.source == "model"
        assert len(answer) == 20
        members = run.data.prior_pairs("genre", "item")
        groups = run.data.manifest.prior("genre").groups
        of_item = {}
        for item, group in zip(*members, strict=True):
            of_item.setdefault(run.catalogue.item_id(int(item)), set()).add(groups[group])
        for found in answer:
            assert found.head.split(" / ")[1] in of_item[found.item_id]

        # The vectors of the search, of histories, and of an export are the same.
        items = np.flatnonzero(rows.has_row_I)
        ids, item_N = run.finder.to_ids(items, np.array([len(items)]))
        with torch.no_grad():
            looked_up = run.model.item_vectors(ids, item_N)
            scored = looked_up
            if name == "mapped":
                scored = run.model.item_factors(ids, item_N)
        torch.testing.assert_close(run.finder._inputs.of_items(items), looked_up)
        index = run.finder.index
        _, place = index.places(items)
        torch.testing.assert_close(index.shard.rows[index.row_of_candidate[place]], scored)
        export(run, tmp_path / "export")
        expected = [(found.item_id, found.head) for found in answer]
        scores = [found.score for found in answer]
    about = json.loads((tmp_path / "export" / "export.json").read_text())
    assert about["format"] == (3 if name == "mapped" else 2), "older releases would divide factors"
    exported = load_exported(tmp_path / "export")
    torch.testing.assert_close(exported.vector_Id[items], scored)
    torch.testing.assert_close(exported.input_Id[items], looked_up)
    found = exported.recommend(history, k=20, allow=allowed)
    assert [(item.item_id, item.head) for item in found] == expected
    assert [item.score for item in found] == pytest.approx(scores, abs=1e-4)


def test_mapped_items_are_scored_by_the_regression_and_others_as_they_were(runs, states):
    """Scores of all kinds of search are products of queries with the map's factors, at any length."""
    with load_run(runs["mapped"], states[1]) as run:
        rows = run.model.item_rows
        items = np.flatnonzero(rows.has_row_I)
        ids, item_N = run.finder.to_ids(items, np.array([len(items)]))
        with torch.no_grad():
            vector_Nd = run.model.item_vectors(ids, item_N)
            factor_Nd = run.model.item_factors(ids, item_N)
        own_N = torch.from_numpy(rows.own_row_I[items])
        unit_Nd = torch.nn.functional.normalize(vector_Nd)
        assert own_N.any()
        torch.testing.assert_close(factor_Nd[own_N], unit_Nd[own_N])
        length_N = factor_Nd.norm(dim=1)
        assert length_N[~own_N].mean() < 0.9, "the map shortens them"

        # The kernel, and searches without it. They score items of their heads' groups.
        (users,) = history_batches(run.data, "test", context=12, batch=1000)
        found = []
        for tiles, resident in (("fp32", True), ("int8", True), ("fp32", False), ("int8", False)):
            settings = replace(run.finder.config, tiles=tiles)
            finder = Finder.of(run.model, run.finder.index, settings, run.data, run.ranks.device)
            if resident:
                finder.make_resident()
                assert finder.resident is not None
            known = finder.contexts(users)
            queries = finder.queries(known, finder.ask(known))
            found.append(finder.find(known, queries, 20))
        score_BKi = torch.einsum("bkd,id->bki", queries.vector_BKd, factor_Nd)
        position_I = np.full(run.data.items, -1)
        position_I[items] = np.arange(len(items))

        for other in found:
            torch.testing.assert_close(other.score_Bk, found[0].score_Bk, atol=1e-4, rtol=1e-4)
            for user in range(len(users)):
                kept = other.row_Bk[user] >= 0
                row_n = position_I[other.row_Bk[user][kept].numpy()]
                path_n = other.path_Bk[user][kept].long()
                expected = score_BKi[user][path_n, row_n] + queries.bias_BK[user][path_n]
                torch.testing.assert_close(
                    other.score_Bk[user][kept], expected, atol=1e-4, rtol=1e-4
                )
        assert np.isin(found[0].row_Bk.numpy(), items[~own_N.numpy()]).any()


def test_evaluation_finds_items_without_rows(runs, states):
    with join() as ranks:
        settings, data, built = tiny.best(runs["rare"], ranks, states[1])
        metrics = tiny.metrics_of(built, settings, data, ranks, by_group=())
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
    assert metrics.get("cold/items", 0) == (frequency == 0).sum()
    assert metrics["unseen/items"] > 40
    assert metrics["recall@200"] > 0.8, "items without rows are found, too"


def test_both_parts_are_trained(runs, states):
    for name, run in runs.items():
        with join() as ranks:
            _, _, built = tiny.best(run, ranks)
            bias = built.model.content.projection.bias
            assert bias.abs().max() > 0, name
            rows = built.model.item_rows
            assert (rows.rows == 1) == (name == "without ids")
    found = {name: losses(run) for name, run in runs.items()}
    assert all(np.isfinite(values).all() and values[-1] < values[0] for values in found.values())


def test_a_run_resumes_to_the_same_bits(runs, states, tmp_path):
    whole = runs["rare"]
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-00000004")
    (again / "checkpoints" / "best.json").write_text(json.dumps({"step": 2, "ndcg@10": 0.0}))
    tiny.train(config(RARE), states[0], again)
    found = []
    for run in (whole, again):
        (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 4, "ndcg@10": 0.0}))
        with join() as ranks:
            _, _, built = tiny.best(run, ranks)
            found.append({"rows": built.shard.rows.clone(), **tiny.dense_parameters(built)})
    assert "content.projection.weight" in found[0]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_content_of_another_model_is_refused(runs, states, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(states[0], other)
    describe(other, ITEMS, tmp_path, made_with="two")
    with pytest.raises(UserError, match=r"content 'text' of .* was made otherwise"):
        load_run(runs["rare"], other)

    # Other vectors of the same model are enough to recommend, and not to resume.
    describe(other, ITEMS, tmp_path, made_with="one", seed=1)
    with load_run(runs["rare"], other) as run:
        assert run.recommend([run.catalogue.item_id(1)], k=3).source == "model"
    shutil.copytree(runs["rare"], tmp_path / "run")
    with pytest.raises(UserError, match=r"has changed since .* was started"):
        tiny.train(config(RARE), other, tmp_path / "run")


@pytest.mark.slow
def test_a_projection_is_carried_to_another_run_of_the_same_content(runs, states, tmp_path):
    embedding = RARE | {"min_frequency": 3}
    run = tmp_path / "run"
    still = {"steps": 1, "evaluate_every": 1, "learning_rate": 0.0}
    settings = config(embedding, table={"learning_rate": 0.0}, training=still)
    tiny.train(settings, states[1], run, init_from=runs["rare"])
    with join() as ranks:
        _, _, old = tiny.best(runs["rare"], ranks)
        projection = old.model.content.projection.weight.detach().clone()
        old_rows = old.model.item_rows
        old_table = old.shard.rows.clone()
        _, _, new = tiny.best(run, ranks)
        assert torch.equal(new.model.content.projection.weight, projection)
        both = np.flatnonzero(old_rows.own_row_I & new.model.item_rows.own_row_I[:ITEMS])
        assert len(both) > 20
        rows = new.shard.rows[new.model.item_rows.row_I[both]]
        assert torch.equal(rows, old_table[old_rows.row_I[both]])

    described_otherwise = tmp_path / "other"
    shutil.copytree(states[1], described_otherwise)
    describe(described_otherwise, 150, tmp_path, made_with="two")
    tiny.train(settings, described_otherwise, tmp_path / "second", init_from=runs["rare"])
    with join() as ranks:
        _, _, other = tiny.best(tmp_path / "second", ranks)
        assert not torch.equal(other.model.content.projection.weight, projection)


def train_all(data, folder):
    answers = {}
    with join() as ranks:
        for name in EMBEDDING:
            settings = config_of(name, training={"accumulate": 2}, sharding={"dedup": True})
            tiny.train(settings, data, folder / name)
            settings, prepared, built = tiny.best(folder / name, ranks)
            metrics = tiny.metrics_of(built, settings, prepared, ranks, by_group=())
            dense = tiny.dense_parameters(built)["content.projection.weight"]
            answers[name] = (losses(folder / name), metrics, tiny.whole_table(built, ranks), dense)
    return answers


@pytest.mark.slow
def test_two_ranks_are_as_one(states, tmp_path):
    alone = run_on_ranks(1, train_all, states[1], tmp_path / "one")[0]
    for answers in run_on_ranks(2, train_all, states[1], tmp_path / "two"):
        for name, (found, metrics, rows, projection) in answers.items():
            np.testing.assert_allclose(found, alone[name][0], rtol=1e-4, err_msg=name)
            torch.testing.assert_close(rows, alone[name][2], atol=2e-5, rtol=1e-3)
            torch.testing.assert_close(projection, alone[name][3], atol=2e-5, rtol=1e-3)
            for key in ("ndcg@10", "unseen/targets", "recall@200"):
                expected = pytest.approx(alone[name][1].get(key), abs=2e-3)
                assert metrics.get(key) == expected, (name, key)
