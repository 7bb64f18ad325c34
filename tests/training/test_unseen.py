"""Runs whose items have no rows of their own: on data that has grown, started from one another, interrupted."""

import itertools
import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from grown_data import earlier_state, grown_from

from torchrec_priors.config import parse
from torchrec_priors.embedding.managed.table import blocks_of
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.run import load_run
from torchrec_priors.training import trainer
from torchrec_priors.training.run.folder import RunFolder

ITEMS = 110  # of 150, in the earlier state
SETTINGS = tiny.settings(
    encoder={"item_features": ["title"]},
    priors={"tree": ["temporal:2", "genre"]},
    loss={"gate": 1.0},
    table={"init_std": 0.5},
    training={"steps": 4, "evaluate_every": 4},
)
POLICIES = {
    "own": {},
    "dropped": {"unseen": "dropped", "min_frequency": 12},
    "shared": {"unseen": "shared", "min_frequency": 12},
    "hashed": {"unseen": "hashed", "min_frequency": 12, "hashed_rows": 5},
    "managed": {"unseen": "managed", "rows": 120, "blocks": 4, "eviction_interval": 3},
}


def _train(data, run, policy, init_from=None, **training):
    settings = tiny.merged(SETTINGS, embedding=POLICIES[policy], training=training)
    tiny.train(parse(settings), data, run, init_from=init_from)
    return run


@pytest.fixture(scope="module")
def states(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    then = earlier_state(small_data, folder / "then", ITEMS)
    return then, grown_from(small_data, then, folder / "now")


@pytest.fixture(scope="module")
def runs(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {policy: _train(states[0], folder / policy, policy) for policy in POLICIES}


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_evaluated_and_serves_on_data_that_has_grown(runs, states, policy):
    then, now = states
    with join() as ranks:
        config, data, built = tiny.best(runs[policy], ranks, now)
        found_items, targets = [], []

        def note(users, found, _):
            found_items.append(found.row_Bk.numpy())
            targets.append(users.targets)

        metrics = tiny.metrics_of(built, config, data, ranks, by_group=(), on_batch=note)
        found, targets = (
            np.concatenate([rows.ravel() for rows in found_items]),
            np.concatenate(targets),
        )
        assert metrics["users"] == data.users
        frequency = PreparedData(then).catalogue(["frequency"])["frequency"].to_numpy()
        alone = np.zeros(data.items, bool)
        if policy == "managed":
            alone[blocks_of(built.model.table).held().item_C] = True
        else:
            alone[:ITEMS] = frequency >= (1 if policy == "own" else 12)
            alone[:ITEMS] |= policy == "own"
    assert metrics["unseen/items"] == (~alone).sum()
    assert metrics["unseen/targets"] == (~alone[targets]).sum() > 0
    assert metrics["unseen/interactions"] > 0
    may = np.ones(data.items, bool) if policy == "hashed" else alone
    assert set(found[found >= 0]) <= set(np.flatnonzero(may))
    assert (set(found) & set(range(ITEMS, data.items)) != set()) == (policy == "hashed")
    old = json.loads((runs[policy] / "data.json").read_text())["groups"]["genre"]
    assert old == len(data.manifest.prior("genre").groups)
    with load_run(runs[policy], now) as loaded:
        known = loaded.catalogue.item_id(int(np.flatnonzero(alone)[0]))
        new = loaded.catalogue.item_id(data.items - 1)
        assert len(loaded.recommend([new, known], k=5)) == 5
        if policy in ("own", "dropped"):
            with pytest.raises(UserError, match="none of its items was seen in training"):
                loaded.recommend([new], strict=True)
            assert loaded.recommend([new]).source == "popularity"
            same = loaded.recommend([known], k=5, deny=[new])
            assert [item.item_id for item in same] == [
                item.item_id for item in loaded.recommend([new, known], k=5)
            ]


def test_other_data_is_still_refused(runs, small_data):
    with pytest.raises(UserError, match="nor has grown from it"):
        RunFolder(runs["own"]).open(small_data)


@pytest.mark.parametrize("policy", ["own", "shared", "hashed", "managed"])
def test_a_run_on_grown_data_starts_from_what_each_item_had(
    runs, states, tmp_path, policy, monkeypatch
):
    started = []
    start_from = trainer.start_from

    def note(*arguments):
        start_from(*arguments)
        built = arguments[1]
        started.append((built.shard.rows.clone(), built.model.item_rows))
        if policy == "managed":
            started.append(blocks_of(built.model.table).held())

    monkeypatch.setattr(trainer, "start_from", note)
    _train(states[1], tmp_path / "run", policy, init_from=runs[policy], steps=1)
    rows, item_rows = started[0]
    with join() as ranks:
        _, _, old = tiny.best(runs[policy], ranks)
        if policy == "managed":
            assert torch.equal(rows, old.shard.rows)
            assert started[1].item_C.tolist() == blocks_of(old.model.table).held().item_C.tolist()
            return
        new_I = np.arange(150) if item_rows.row_I is None else item_rows.row_I
        if policy == "own":
            assert torch.equal(rows[:ITEMS], old.shard.rows)
            assert rows[ITEMS:].std() > 0.3, "new ones keep first values of their own"
            return
        _, _, grown = tiny.best(runs[policy], ranks, states[1])
        old_I = grown.model.item_rows.row_I
        alone = item_rows.own_row_I
        assert (alone[:ITEMS] & ~grown.model.item_rows.own_row_I[:ITEMS]).any() or alone[
            ITEMS:
        ].any()
        assert torch.equal(rows[new_I[alone]], old.shard.rows[old_I[alone]])
        assert torch.equal(rows[item_rows.shared_H], old.shard.rows[grown.model.item_rows.shared_H])


@pytest.mark.parametrize("source", ["own", "hashed"])
def test_a_managed_table_starts_with_what_another_run_had_rows_for(
    runs, states, tmp_path, source, monkeypatch
):
    seen = []
    start_from = trainer.start_from

    def note(*arguments):
        start_from(*arguments)
        seen.append((arguments[1].shard.rows.clone(), blocks_of(arguments[1].model.table).held()))

    monkeypatch.setattr(trainer, "start_from", note)
    _train(states[0], tmp_path / "run", "managed", init_from=runs[source], steps=1)
    rows, held = seen[0]
    with join() as ranks:
        _, _, old = tiny.best(runs[source], ranks)
        row_I = np.arange(ITEMS) if old.model.item_rows.row_I is None else old.model.item_rows.row_I
        alone = (
            np.ones(ITEMS, bool)
            if old.model.item_rows.own_row_I is None
            else old.model.item_rows.own_row_I
        )
        assert len(held.item_C) > (40 if source == "own" else 15)
        assert alone[held.item_C].all()
        assert torch.equal(rows[held.row_C], old.shard.rows[row_I[held.item_C]])


def test_a_managed_run_that_was_interrupted_ends_with_the_same_bits(small_data, tmp_path):
    """The checkpoint is of step 5: step 4 was met after the last admission, at step 3, and is met again."""
    whole = _train(small_data, tmp_path / "whole", "managed", steps=10, evaluate_every=5)
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-00000010")
    (again / "checkpoints" / "best.json").write_text(json.dumps({"step": 5, "ndcg@10": 0.0}))
    (again / "data.json").write_text((whole / "data.json").read_text())
    _train(small_data, again, "managed", steps=10, evaluate_every=5)
    found = []
    for run in (whole, again):
        (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 10, "ndcg@10": 0.0}))
        with join() as ranks:
            _, _, built = tiny.best(run, ranks)
            blocks = blocks_of(built.model.table)
            state = {name: value.clone() for name, value in blocks.state_dict().items()}
            dense = {name: value.detach().clone() for name, value in built.model.named_parameters()}
            lines = [json.loads(line) for line in RunFolder(run).metrics.read_text().splitlines()]
            found.append(
                (state, dense, built.shard.rows.clone(), [line.get("loss") for line in lines])
            )
    for name, value in found[0][0].items():
        assert torch.equal(value, found[1][0][name]), name
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name
    assert torch.equal(found[0][2], found[1][2])
    assert found[0][3] == found[1][3]
    assert int(found[0][0]["_current_iter_tensor"]) == 4


def test_negatives_are_admitted_and_rows_come_and_go(small_data, tmp_path, monkeypatch):
    """A table of fewer rows than items: what is drawn has a row of its own, and who is evicted loses it."""
    drawn, held = [], []
    draw = trainer.Admission.draw

    def note(admission, windows):
        batch = draw(admission, windows)
        now = admission.blocks.held()
        drawn.append((set(batch[0].own_ids.tolist()), set(now.row_C.tolist())))
        rows = admission.shard.rows.clone()
        held.append(
            {
                int(item): (int(row), rows[row])
                for item, row in zip(now.item_C, now.row_C, strict=True)
            }
        )
        return batch

    monkeypatch.setattr(trainer.Admission, "draw", note)
    monkeypatch.setitem(POLICIES, "tiny", {
        "unseen": "managed", "rows": 40, "blocks": 4, "eviction": "lru", "eviction_interval": 1,
    })  # fmt: skip
    _train(small_data, tmp_path / "run", "tiny", steps=6, evaluate_every=6)
    assert all(ids and ids <= rows for ids, rows in drawn)
    evicted = [
        item for before, after in itertools.pairwise(held) for item in before.keys() - after.keys()
    ]
    admitted = [
        item for before, after in itertools.pairwise(held) for item in after.keys() - before.keys()
    ]
    assert evicted
    assert admitted
    stayed = [
        (before[item][1], after[item][1])
        for before, after in itertools.pairwise(held)
        for item in before.keys() & after.keys()
    ]
    assert any(not torch.equal(old, new) for old, new in stayed), "admitted items get gradients"
    assert all(len({row for row, _ in rows.values()}) == len(rows) for rows in held)
