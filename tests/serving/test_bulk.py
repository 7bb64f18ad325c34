"""Many users at once get what each gets alone, on any number of ranks; lists of items are kept to; no half file."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from e2e.command_line import app

from torchrec_priors import load_run
from torchrec_priors.apps import command, recommend
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.serving.bulk import recommend_in_bulk

K = 7


def _app(*arguments):
    """The app in this process."""
    with pytest.raises(SystemExit) as ended:
        command.run(recommend.recommend, [str(argument) for argument in arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def users(small_data):
    """Most users, in an order that is not the data set's."""
    everyone = PreparedData(small_data).user_texts().to_pylist()
    return [int(user) for user in np.random.default_rng(0).permutation(everyone)[:61]]


@pytest.fixture(scope="module")
def deny(run, tmp_path_factory):
    """A list of what users would get first, and of items that there are not."""
    with load_run(run) as loaded:
        best = loaded.recommend_many([["5"], ["50", 7]], k=10)
    file = tmp_path_factory.mktemp("lists") / "deny.txt"
    file.write_text(
        "".join(f"{item.item_id}\n" for items in best for item in items) + "unheard-of\n"
    )
    return file


@pytest.fixture(scope="module")
def bulk(run, users, deny, tmp_path_factory):
    """What one process wrote for `users` without the items of `deny`."""
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "users.txt").write_text("".join(f"{user}\n" for user in users))
    _app(
        "--run",
        run,
        "--users",
        folder / "users.txt",
        "--out",
        folder / "out.parquet",
        "-k",
        K,
        "--deny",
        deny,
    )
    return folder


def test_the_file_has_the_lines_order_and_the_columns_of_predictions(bulk, users):
    table = pq.read_table(bulk / "out.parquet")
    assert table.schema.names == ["user_id", "items", "scores", "heads"]
    assert table.schema.field("user_id").type == pa.int64()
    assert table["user_id"].to_pylist() == users
    assert {path.name for path in bulk.iterdir()} == {"users.txt", "out.parquet"}


def test_each_user_gets_what_one_alone_gets(run, bulk, deny):
    with load_run(run) as loaded:
        for row in pq.read_table(bulk / "out.parquet").to_pylist()[::4]:
            alone = loaded.recommend(user=row["user_id"], k=K, deny=deny.read_text().split())
            assert [item.item_id for item in alone] == row["items"]
            assert [item.head for item in alone] == row["heads"]
            assert [item.score for item in alone] == row["scores"]  # to the last bit


@pytest.mark.slow
def test_two_ranks_write_the_same_bytes_from_a_parquet_list(run, bulk, users, deny, tmp_path):
    pq.write_table(pa.table({"user_id": users}), tmp_path / "users")
    app("recommend", "--run", run, "--users", tmp_path / "users", "--out", tmp_path / "out", "-k", K,
        "--deny", deny, ranks=2)  # fmt: skip
    assert (tmp_path / "out").read_bytes() == (bulk / "out.parquet").read_bytes()


def test_lists_are_kept_to_and_k_is_filled(run, bulk, small_data, deny, tmp_path, capsys, caplog):
    denied = set(deny.read_text().split())
    for row in pq.read_table(bulk / "out.parquet").to_pylist():
        assert len(row["items"]) == K
        assert not denied & {str(item) for item in row["items"]}
    data = PreparedData(small_data)
    allowed = data.catalogue(["item_id"])["item_id"].to_pylist()[:4]
    pq.write_table(pa.table({"item_id": [*map(str, allowed), "unheard-of"]}), tmp_path / "allow")
    with caplog.at_level("INFO", logger="torchrec_priors"):
        _app(
            "--run", run, "--users", "all", "--out", tmp_path / "out", "--allow", tmp_path / "allow"
        )
    assert "allow list: 5 items, 1 of them not in the catalogue" in caplog.text
    table = pq.read_table(tmp_path / "out")
    assert table["user_id"].cast(pa.string()) == data.user_texts()
    short = 0
    for group in data.row_groups:
        histories = data.read_users(group)
        for user in range(group.users):
            row = table.slice(group.first_user + user, 1).to_pylist()[0]
            seen = {row for row in range(4) if row in histories.history(user)}
            assert set(row["items"]) == {allowed[i] for i in range(4) if i not in seen}
            short += len(row["items"]) < 10
    assert f"10 items for {data.users} users ({short} users got fewer" in capsys.readouterr().out


def test_a_failing_job_leaves_the_old_file(run, tmp_path):
    (tmp_path / "out").write_text("old")

    def failing(batches, _count):
        yield next(iter(batches))
        raise OSError("no space left on device")

    with load_run(run) as loaded, pytest.raises(OSError, match="no space"):
        recommend_in_bulk(
            loaded, np.arange(loaded.data.users), tmp_path / "out", k=3, progress=failing
        )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "old"}


@pytest.mark.slow
def test_a_killed_job_leaves_no_file_and_the_next_one_cleans_up(run, tmp_path):
    program = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from torchrec_priors import load_run
        from torchrec_priors.serving import bulk, ordered_file

        def killed(batches, _count):
            for number, users in enumerate(batches):
                if number == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield users

        ordered_file._ENTRIES = 1
        with load_run(sys.argv[1]) as run:
            bulk.recommend_in_bulk(run, np.arange(run.data.users), Path(sys.argv[2]), k=3, progress=killed)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), run, tmp_path / "out"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name == ".out.partial"
    assert list(left.iterdir()), "killed too early to show anything"
    _app("--run", run, "--users", "all", "--out", tmp_path / "out", "-k", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
