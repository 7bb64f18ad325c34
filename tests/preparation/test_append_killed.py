"""An append that is killed at any moment leaves the data set as it was, and goes on."""

import random
import shutil

import growing_shop
import pytest
from growing_shop import content, write

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append import append as module
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.build import sequence_files, work_folder
from torchrec_priors.preparation.engine import on_duckdb
from torchrec_priors.preparation.engine.journal import Journal
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.mapping import from_mapping
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest, verify

SHOP = Given(dataset=str(growing_shop.FILE))
DRAW = random.Random(0)
ROWS = [
    (f"user {DRAW.randrange(20):02}", DRAW.randrange(1, 30), DRAW.randrange(99), 0)
    for _ in range(120)
]


class Killed(BaseException):
    """As when a process ends: nobody handles it."""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """(data set in several files, raw files to append, content of what comes of it)."""
    monkeypatch.setattr(on_duckdb, "_BYTES_A_ROW", 2 * 10**9 // 50)
    monkeypatch.setattr(sequence_files, "USERS_A_FILE", 8)
    monkeypatch.setattr(sequence_files, "users_a_row_group", lambda _: 2)
    raw, new = (
        write(tmp_path / "raw", [*ROWS[:80], ("short", 7, 7, 1)]),
        write(tmp_path / "new", ROWS[80:]),
    )
    prepare(Settings(SHOP.dataset, raw, horizon=1), tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "whole")
    return tmp_path / "data", new, append(new, tmp_path / "whole", SHOP).manifest.content_sha256


@pytest.mark.slow
def test_stages_that_are_finished_are_not_redone(shop, tmp_path, monkeypatch):
    out, new, expected = shop
    before, finish, finished, left = read_manifest(out), Journal.finish, [], [0]

    def limited(self, stage, *arguments, **named):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        finish(self, stage, *arguments, **named)
        finished.append(stage)

    monkeypatch.setattr(Journal, "finish", limited)
    made, kills = None, 0
    while made is None:
        left[0] = DRAW.randint(4, 12)
        try:
            made = append(new, out, SHOP).manifest
        except Killed:
            kills += 1
            assert read_manifest(out) == before
            verify(out)
    assert kills > 4
    assert len(finished) == len(set(finished)), "a stage was done twice"
    assert made.content_sha256 == expected
    verify(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "new", "raw", "whole"]


@pytest.mark.slow
def test_a_kill_between_the_two_moves_leaves_the_old_one_to_be_found(shop, tmp_path, monkeypatch):
    out, new, expected = shop
    before = content(out)

    def half(made, out):
        out.replace(work_folder.set_aside(out))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "move", half)
        with pytest.raises(Killed):
            append(new, out, SHOP)
    assert not out.exists()
    work_folder.recover(out)
    assert content(out) == before
    out.replace(work_folder.set_aside(out))
    assert append(new, out, SHOP).manifest.content_sha256 == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "new", "raw", "whole"]


@pytest.mark.slow
def test_a_prior_that_is_added_meanwhile_is_not_lost(shop, tmp_path, monkeypatch):
    out, new, _ = shop
    (tmp_path / "moods.csv").write_text("item_id,label\n1,light\n2,dark\n")
    run = module.AppendBuild.run

    def meanwhile(self, settings):
        made = run(self, settings)
        data = PreparedData(out)
        add_prior(
            out,
            "mood",
            from_mapping("mood", "item_id", tmp_path / "moods.csv", data),
            data.manifest,
        )
        return made

    with monkeypatch.context() as patch:
        patch.setattr(module.AppendBuild, "run", meanwhile)
        with pytest.raises(UserError, match="was changed while it was appended to: run this again"):
            append(new, out, SHOP)
    assert read_manifest(out).prior("mood").groups
    assert append(new, out, SHOP).manifest.prior("mood").groups
