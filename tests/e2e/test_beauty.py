"""Amazon Beauty whole: bulk recommendation for all 22,363 users on two ranks, against one user after another."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import REPOSITORY, app

from torchrec_priors import load_run
from torchrec_priors.preparation.prepare import Settings, prepare

K = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    raw = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon-beauty"
    if not (raw / "Beauty.txt").is_file():
        pytest.skip(f"Amazon Beauty is not at {raw}")
    folder = tmp_path_factory.mktemp("beauty")
    prepare(Settings("amazon", raw), folder / "data")
    config = REPOSITORY / "torchx_configs/beauty.toml"
    settings = ["training.steps=100", "training.evaluate_every=100"]
    app(
        "train",
        "--config",
        config,
        "--data",
        folder / "data",
        "--run",
        folder / "run",
        *settings,
        ranks=2,
        timeout=900,
    )
    return folder / "run"


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_bulk_on_two_ranks_equals_one_user_after_another_and_never_violates_a_deny_list(
    run, tmp_path
):
    with load_run(run) as loaded:
        ids = loaded.data.catalogue(["item_id", "frequency"]).sort_by(
            [("frequency", "descending")]
        )["item_id"]
        denied = {str(item) for item in ids.to_pylist()[:500]}
        (tmp_path / "denied.txt").write_text("\n".join([*denied, "4711000"]))
        arguments = ["--run", run, "--users", "all", "--k", K, "--deny", tmp_path / "denied.txt"]
        app("recommend", *arguments, "--out", tmp_path / "out.parquet", ranks=2, timeout=900)
        bulk = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert len(bulk) == 22_363
        assert not denied & {str(item) for row in bulk for item in row["items"]}
        deny = loaded.item_list(denied)
        users = loaded.data.user_texts().to_pylist()
        for row, user in zip(bulk, users, strict=True):
            alone = loaded.recommend(user=user, k=K, deny=deny)
            assert str(row["user_id"]) == user
            assert [found.item_id for found in alone] == row["items"], user
            assert [found.head for found in alone] == row["heads"], user
            assert [found.score for found in alone] == row["scores"], user  # to the last bit
