"""`bench --shape requests`: all variants answer the same requests."""

from dataclasses import replace

import pytest

from torchrec_priors.bench import requests
from torchrec_priors.bench.requests import CASES, VARIANTS, make_run, time_requests
from torchrec_priors.ops.native import load_native
from torchrec_priors.retrieval import resident

SMALL = {
    "sequences": 9,
    "context": 12,
    "items": 300,
    "negatives": 44,
    "dim": 16,
    "layers": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["45 heads", "merrec"])
def test_all_variants_answer_the_same(name, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "_BATCH", 4)
    case = replace(CASES[name], shape=replace(CASES[name].shape, **SMALL), requests=9)
    make_run(case, tmp_path)
    timed = {variant: time_requests(case, variant, tmp_path, 1) for variant in VARIANTS}
    assert resident.load_native is load_native, "later runs of this process have no kernel"
    one = timed["one at a time"]
    assert one.results == timed["batches"].results
    assert one.results == pytest.approx(timed["one at a time, by operations"].results, abs=1e-2)
    for measured in timed.values():
        assert measured.tokens == 9
        assert len(measured.seconds) == 1
        assert measured.seconds[0] > 0


def test_the_cases_have_the_heads_that_they_are_named_after():
    for name, heads in (("4 heads", 4), ("45 heads", 45), ("64 heads", 64)):
        shape = CASES[name].shape
        groups = shape.groups if "category" in shape.tree else 0
        assert 4 + groups == heads
