"""`make demo`, small: it ends well, says what it should, and can be given again."""

import sys

import pytest
from command_line import REPOSITORY, run

SMALL = [
    "model.dim=8",
    "encoder.layers=1",
    "training.steps=6",
    "training.evaluate_every=3",
    "training.batch=16",
]


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_the_demo_ends_well_twice_and_names_a_failing_step(tmp_path):
    demo = [sys.executable, REPOSITORY / "tools/demo.py", "--folder", tmp_path / "demo", "--rows"]
    first = run([*demo, 3_000, *SMALL], timeout=600).stdout
    for words in (
        "$ torchx run -s local_cwd components/train.py:train -j 1x2",
        "because of",
        "short-term",
        "ndcg@10",
        "new_interest/ndcg@10",
        "top 10: favourites of the user's group",
        "what to try next",
        f"The report: {tmp_path / 'demo' / 'report' / 'index.html'}",
        str(tmp_path / "demo" / "runs"),
    ):
        assert words in first
    assert "What to turn on" in (tmp_path / "demo/report/index.html").read_text()
    second = run([*demo, 3_000, *SMALL], timeout=600).stdout
    table = [line for line in first.splitlines() if "@10" in line or "favourites" in line]
    assert table == [line for line in second.splitlines() if "@10" in line or "favourites" in line]
    other = run([*demo, 4_000, *SMALL], check=False, timeout=600)
    assert other.returncode == 2
    assert "holds another generated log" in other.stderr
    assert "failed with exit code 2" in other.stderr
