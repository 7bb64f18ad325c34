"""What is measured here beside what was predicted: real processes, tiny tables."""

import pytest
from questions import request_of

from torchrec_priors.planning.measure import measure, show_cases


@pytest.mark.campaign
def test_two_ranks_take_about_half_each():
    request = request_of(
        1, 1, dim=64, device="cpu", numbers={"batch": 4, "context": 50, "negatives": 64}
    )
    alone, two = measure(request, [2_000_000], [1, 2], repeats=1, threads=1, report=lambda _: None)
    whole = 2_000_000 * 64 * 4
    assert alone.predicted.fullest.table == whole
    assert two.predicted.fullest.table == whole // 2
    assert alone.measured.rows == pytest.approx(whole, rel=0.1)
    assert two.measured.rows == pytest.approx(whole / 2, rel=0.1)
    assert alone.measured.link_bandwidth == 0
    assert two.measured.link_bandwidth > 0
    assert min(alone.measured.backward, two.measured.forward) > 0
    assert show_cases([alone, two]).count("2M") == 2
