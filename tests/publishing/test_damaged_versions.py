"""Every damaged byte of a version is noticed, and so is every `current.json` that is not as it was written."""

import json
import os
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_models import change_json, copy_of, reseal, two_runs

from torchrec_priors import load_run
from torchrec_priors.common.files import write_json
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.canary import CANARY, check_canary, read_canary, read_requests
from torchrec_priors.publishing.current import Current, read_current, write_current
from torchrec_priors.publishing.publish import publish
from torchrec_priors.publishing.verify import verify
from torchrec_priors.publishing.version import MANIFEST, read_manifest


@pytest.fixture(scope="module")
def version(trained, tmp_path_factory):
    """The folder of a version; tests only read it."""
    return publish(two_runs(trained)[0], tmp_path_factory.mktemp("published"), "one").place


@pytest.fixture
def own(version, tmp_path):
    """A copy that a test may change."""
    return copy_of(version, tmp_path / version.name)


@pytest.fixture(scope="module")
def spoilt(version, tmp_path_factory):
    """A copy for properties, which put every byte back."""
    return copy_of(version, tmp_path_factory.mktemp("spoilt") / version.name)


def _files(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_damaged_byte_is_noticed(spoilt, data):
    file = data.draw(st.sampled_from(_files(spoilt)))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    file.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    try:
        with pytest.raises(UserError) as raised:
            verify(spoilt)
        assert "\n" not in str(raised.value)
    finally:
        file.write_bytes(whole)
    assert verify(spoilt).name == "one"


def test_every_byte_of_the_manifest_counts(spoilt):
    file = spoilt / MANIFEST
    whole = file.read_bytes()
    draw = random.Random(0)
    try:
        for at in range(len(whole)):
            file.write_bytes(
                whole[:at] + bytes([whole[at] ^ draw.randrange(1, 256)]) + whole[at + 1 :]
            )
            with pytest.raises(UserError):
                read_manifest(spoilt)
        for end in range(0, len(whole), 7):
            file.write_bytes(whole[:end])
            with pytest.raises(UserError):
                read_manifest(spoilt)
    finally:
        file.write_bytes(whole)


def test_files_that_are_missing_cut_off_or_of_another_kind(own):
    for file in _files(own):
        whole = file.read_bytes()
        for content in (whole[:-1], whole + b"\0", b""):
            file.write_bytes(content)
            with pytest.raises(UserError):
                verify(own)
        file.unlink()
        with pytest.raises(UserError, match=r"is missing|no manifest"):
            verify(own)
        # The same content behind a link may change later.
        elsewhere = own.parent / "elsewhere"
        elsewhere.write_bytes(whole)
        if file.name != MANIFEST:
            file.symlink_to(elsewhere)
            with pytest.raises(UserError, match="is not a regular file"):
                verify(own)
            file.unlink()
            os.mkfifo(file)
            with pytest.raises(UserError, match="is not a regular file"):
                verify(own)
            file.unlink()
        file.write_bytes(whole)
    verify(own)


def test_manifests_that_publish_does_not_write(own):
    def refused(match):
        with pytest.raises(UserError, match=match):
            verify(own)

    whole = (own / MANIFEST).read_bytes()
    change_json(own / MANIFEST, lambda values: values.update(format=2))
    refused("is of format 2, but this release reads only up to 1: update torchrec_priors")
    for change, match in (
        (lambda values: values.update(more=1), "'more': Unexpected keyword argument"),
        (lambda values: values.pop("created"), "'created': Field required"),
        (lambda values: values.update(name=3), "'name': Input should be a valid string"),
        (lambda values: values["files"].update({"../x": {"bytes": 0, "sha256": ""}}), "leads out of the folder"),
        (lambda values: values["files"].update({"/x": {"bytes": 0, "sha256": ""}}), "leads out of the folder"),
        (lambda values: values.update(name="two"), "holds version 'two': give the folder the name"),
    ):  # fmt: skip
        (own / MANIFEST).write_bytes(whole)
        change_json(own / MANIFEST, change)
        refused(match)
    values = json.loads(whole)
    del values["sha256"]
    (own / MANIFEST).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    refused("is not as it was written")
    shutil.rmtree(own)
    refused("is not a published version")
    own.write_text("a file")
    refused("is not a published version")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b'{"version": "one", "publ', "cannot be read"),
        (b"[]", "it is not a JSON object"),
        (b"\xff", "cannot be read"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"version": "one"}', "'published': Field required"),
        (b'{"version": "one", "published": "x", "more": 1}', "'more': Unexpected keyword"),
        (b'{"version": 1, "published": "x"}', "'version': Input should be a valid string"),
        (b'{"version": "../one", "published": "x"}', "'../one' is no name of a version"),
        (b'{"version": "one", "published": "x", "sha256": "0"}', "does not match its checksum"),
    ],
)
def test_current_json_that_is_not_as_it_was_written(tmp_path, content, says):
    (tmp_path / "current.json").write_bytes(content)
    with pytest.raises(UserError, match=says) as raised:
        read_current(tmp_path)
    assert "current.json'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_current_json_goes_from_one_version_to_the_next_in_one_step(tmp_path):
    assert read_current(tmp_path) is None
    for number in range(3):
        current = Current(f"v{number}", "2026-01-01T00:00:00+00:00")
        write_current(tmp_path, current)
        assert read_current(tmp_path) == current
    assert [path.name for path in tmp_path.iterdir()] == ["current.json"]
    # Somebody may write it by hand, without a checksum.
    (tmp_path / "current.json").write_text('{"version": "v0", "published": "by hand"}')
    assert read_current(tmp_path) == Current("v0", "by hand")


def test_a_canary_notices_other_answers(version, own):
    canary = read_canary(version)
    with load_run(version) as run:
        assert check_canary(run, canary) is True

        def change(how):
            (own / CANARY).unlink()
            shutil.copyfile(version / CANARY, own / CANARY)
            change_json(own / CANARY, how)
            return check_canary(run, read_canary(own))

        def swap_ids(values):
            first, *_, last = values["answers"][0]
            first["item_id"], last["item_id"] = last["item_id"], first["item_id"]

        def other_score(values):
            values["answers"][2][3]["score"] += 0.1

        for how, says in (
            (swap_ids, "request 1 of its canary differently .* in place 1 instead of item"),
            (other_score, "request 3 of its canary differently .* in place 4"),
            (lambda values: values["answers"][1].pop(), "request 2 .*10 items instead of 9"),
        ):
            with pytest.raises(UserError, match=says):
                change(how)

        # Another machine rounds differently, and may exchange items with nearly the same score.
        def rounded(values):
            for items in values["answers"]:
                for item in items:
                    item["score"] += 1e-5

        assert change(rounded) is True

        # The data set has grown since: answers may differ.
        def grown(values):
            values["data_sha256"] = "0" * 64
            other_score(values)

        assert change(grown) is False

        def unknown(values):
            values["requests"][0] = {"history": [4711], "strict": True}

        with pytest.raises(UserError, match="request 1 of the canary is rejected"):
            change(unknown)
    (own / CANARY).write_text('{"requests": []}')
    with pytest.raises(UserError, match="is not what publish writes"):
        read_canary(own)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has 0 requests: give 1 to 1,000"),
        ('{"user": 1}\n' * 1001, "has 1,001 requests"),
        ('{"user": 1}\nnonsense', "line 2: the line: Invalid JSON"),
        ('{"usr": 1}', "line 1: usr: Unexpected keyword argument"),
        ('{"user": []}', "line 1: user"),
        ('{"history": [{"itm": 3}]}', "line 1: history"),
        ('{"levers": {"onyl": []}}', "line 1: levers.onyl"),
        ("\x00", "line 1"),
    ],
)
def test_files_of_requests_that_are_wrong(tmp_path, text, says):
    (tmp_path / "requests").write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        read_requests(tmp_path / "requests")
    assert "\n" not in str(raised.value)


def test_a_sealed_version_with_other_files_is_as_written(own):
    """What `reseal` makes, with which tests of the service try versions that only loading finds to be bad."""
    (own / "paths.json").unlink()
    write_json(own / "paths.json", {"targets": 1})
    reseal(own)
    verify(own)
