"""The oracle of a mixed log: its distribution is the one that drew the log, and nothing is better."""

import json
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from mixed_logs import SIGNALS, only

from torchrec_priors.errors import UserError
from torchrec_priors.synthetic.catalogue import Catalogue
from torchrec_priors.synthetic.files import generate
from torchrec_priors.synthetic.mixed.expected import Expected, over_items
from torchrec_priors.synthetic.mixed.histories import make_mixed
from torchrec_priors.synthetic.mixed.mix import Mix, Source
from torchrec_priors.synthetic.mixed.oracle import KNOWABLE, Oracle
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.mixed.unseen import TURNS

ROWS = 30_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "raw"
    generate(folder, ROWS, 2, items=800, mix=Mix())
    return folder


@pytest.fixture(scope="module")
def oracle(raw):
    return Oracle.of(raw)


def _expected(items, users, length, targets=1):
    mix = Mix()
    structure = Structure.make(Catalogue.make(items, 5), mix.communities_of(items), 5)
    numbers = np.arange(1, users + 1)
    made = make_mixed(structure, mix, 5, numbers, np.full(users, length))
    return Expected(structure, mix, made, np.arange(users), targets)


@pytest.mark.parametrize(("items", "length"), [(300, 100), (3_000, 30)])
@pytest.mark.parametrize("known", [KNOWABLE, tuple(Source)])
def test_the_distribution_is_the_one_that_drew_the_log(items, length, known):
    """The mean of -log2 of the drawn item's probability is the entropy, and of its square, as well.

    In the small catalogue, users have seen most of some pools, so rows give up.
    """
    expected = _expected(items, 1_500, length)
    pools, whole = expected.structure.pools, expected.structure.whole
    draws = expected.draws(known, 1)
    above, times = [], []
    for index, (begin, cut) in enumerate(zip(expected.begin, expected.cut, strict=True)):
        seen = np.zeros(items, bool)
        seen[expected.made.position[begin : begin + cut]] = True
        chance = over_items(pools, whole, draws[index], seen)
        assert chance.sum() == pytest.approx(1, abs=1e-3)
        assert not chance[seen].any()
        bits = -np.log2(np.where(chance > 0, chance, 1.0))
        drawn = expected.made.position[begin + cut]
        above.append(bits[drawn] - (chance * bits).sum())
        times.append(chance[drawn] - (chance**2).sum())
    for value in (above, times):
        assert abs(np.mean(value)) < 4 * np.std(value) / len(value) ** 0.5


def test_it_is_the_definition_for_one_user():
    expected = _expected(400, 3, 60)
    structure = expected.structure
    pools = np.split(structure.pools.items, structure.pools.bounds[1:-1])
    weight = structure.catalogue.weight
    seen = set(expected.made.position[60:119].tolist())
    chance = defaultdict(float)
    again = 0.0
    for pool, draws in zip(pools, expected.draws(KNOWABLE, 1)[1], strict=True):
        mass = sum(weight[item] for item in pool)
        gone = sum(weight[item] for item in pool if item in seen) / mass
        again += draws * gone**TURNS
        for item in pool:
            if item not in seen:
                turns = sum(gone**turn for turn in range(TURNS))
                chance[item] += draws * weight[item] / mass * turns
    gone = sum(weight[item] for item in seen)
    for item in range(400):
        if item not in seen:
            chance[item] += again * weight[item] * sum(gone**turn for turn in range(TURNS))
    is_seen = np.isin(np.arange(400), list(seen))
    found = over_items(structure.pools, structure.whole, expected.draws(KNOWABLE, 1)[1], is_seen)
    assert found == pytest.approx([chance[item] for item in range(400)], rel=1e-9)


def test_expected_draws_add_up_to_the_steps():
    expected = _expected(300, 20, 40, targets=8)
    for known in ((), KNOWABLE, tuple(Source)):
        assert expected.draws(known, 5).sum(axis=1) == pytest.approx(np.full(20, 5.0))


def test_the_more_is_known_the_better(oracle):
    nothing, everything, told = (oracle.scores(known) for known in ((), KNOWABLE, tuple(Source)))
    assert everything.ndcg > 1.5 * nothing.ndcg
    assert told.bits < everything.bits
    for source in KNOWABLE:
        one = oracle.scores([source])
        others = oracle.scores([other for other in KNOWABLE if other is not source])
        assert one.bits < nothing.bits
        assert everything.bits < others.bits
        assert everything.ndcg > others.ndcg - 0.005
    assert 1.5 < everything.entropy < 3
    assert 1.5 < everything.target_entropy < 2.5


@pytest.mark.slow
@pytest.mark.parametrize("off", SIGNALS)
def test_nothing_is_gained_by_knowing_a_signal_that_is_off(off):
    shares = {signal: 0.2 * (signal != off) for signal in SIGNALS}
    oracle = Oracle(30_000, 1, Mix(**shares), items=400)
    assert oracle.scores(tuple(Source)) == oracle.scores([s for s in Source if s.name != off])
    for on in (source for source in list(Source)[1:] if source.name != off):
        others = [source for source in Source if source is not on]
        assert oracle.scores(tuple(Source)).bits < oracle.scores(others).bits


def test_without_signals_the_list_is_that_of_popularity():
    oracle = Oracle(5_000, 1, only(), items=400)
    part = oracle.parts[0]
    seen = np.zeros(400, bool)
    seen[part.made.position[: part.cut[0]]] = True
    weight = oracle.structure.catalogue.weight
    chance = over_items(oracle.structure.pools, oracle.structure.whole, part.draws((), 1)[0], seen)
    assert chance[~seen] == pytest.approx(weight[~seen] / weight[~seen].sum())
    assert oracle.scores(tuple(Source)) == oracle.scores(())


def test_its_users_and_targets_are_those_of_the_log(raw, oracle):
    users = defaultdict(list)
    for row in pq.read_table(raw / "log.parquet").to_pylist():
        users[row["user_id"]].append(row["item_id"])
    long = [items for items in users.values() if len(items) > 16]
    item_id = oracle.structure.catalogue.item_id
    found = [
        item_id[part.made.position[begin : begin + cut + 8]].tolist()
        for part in oracle.parts
        for begin, cut in zip(part.begin, part.cut, strict=True)
    ]
    assert found == long
    assert oracle.scores().users == len(found)

    catalogue = pq.read_table(raw / "items.parquet").to_pydict()
    category = dict(zip(catalogue["item_id"], catalogue["category"], strict=True))
    entropy = []
    for items in long:
        counts = np.array(list(Counter(category[item] for item in items[-8:]).values()))
        entropy.append(-(counts / 8 * np.log2(counts / 8)).sum())
    assert oracle.scores().target_entropy == pytest.approx(np.mean(entropy))


def test_fewer_users_are_the_first_ones(raw, oracle):
    few = Oracle.of(raw, most_users=30)
    assert few.scores().users == 30
    assert np.array_equal(few.parts[0].user, oracle.parts[0].user[:30])
    assert np.array_equal(few.parts[0].cut, oracle.parts[0].cut[:30])


def test_ndcg_and_recall_of_lists_of_another_length(oracle):
    """Of a list of all items, recall is 1 unless an item is repeated."""
    assert oracle.scores(k=800).recall == pytest.approx(1, abs=0.01)
    assert oracle.scores(k=1).recall < oracle.scores(k=10).recall < oracle.scores(k=50).recall
    assert oracle.scores(k=1).entropy == 0


def test_logs_without_a_known_distribution_are_refused(raw, tmp_path):
    generate(tmp_path / "sessions", 1_000, 0)
    with pytest.raises(UserError, match="whose distribution is not known: generate one with"):
        Oracle.of(tmp_path / "sessions")
    with pytest.raises(UserError, match=r"generated\.json' does not describe a generated log"):
        Oracle.of(tmp_path)
    marker = json.loads((raw / "generated.json").read_text())
    (tmp_path / "generated.json").write_text(json.dumps({**marker, "version": 0}))
    with pytest.raises(UserError, match="is of version 0, not 1: generate it again"):
        Oracle.of(tmp_path)
