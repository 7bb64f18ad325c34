"""Ids come out of a file as they stand in it, whatever its form; what is wrong with it is said in a line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_priors.data.id_files import places, read_ids
from torchrec_priors.errors import UserError


def _read(file):
    return read_ids(file, "user_id", option="--users").to_pylist()


TEXTS = {
    "plain": "7\nu8\n009\n",
    "with a title": "user_id\n7\nu8\n009",
    "quoted, Windows": '"7"\r\n"u8"\r\n"009"\r\n',
    "empty lines": "\n7 \n\n u8\n009\n\n",
    "byte-order mark": "\ufeffuser_id\n7\nu8\n009\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text(tmp_path, text):
    (tmp_path / "ids").write_bytes(text.encode())
    assert _read(tmp_path / "ids") == ["7", "u8", "009"]


def test_parquet(tmp_path):
    for ids in ([9, 7], ["u9", "7"]):
        pq.write_table(pa.table({"other": [0, 0], "user_id": ids}), tmp_path / "ids.parquet")
        assert _read(tmp_path / "ids.parquet") == [str(user) for user in ids]


def _none(file):
    return None


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_none, "there is no file"),
        (lambda file: file.mkdir(), "there is no file"),
        (lambda file: file.write_text(""), "holds no ids"),
        (lambda file: file.write_text("user_id\n"), "holds no ids"),
        (lambda file: file.write_text("\n\n"), "holds no ids"),
        (lambda file: file.write_text("7,x\n8,y\n"), "give one id a line"),
        (lambda file: file.write_bytes(b"7\n\xff\xfe\n"), "cannot be read"),
        (lambda file: file.write_bytes(b"PAR1 cut"), "cannot be read"),
        (lambda file: pq.write_table(pa.table({"user": [1]}), file), "has no column 'user_id' (it has user)"),
        (lambda file: pq.write_table(pa.table({"user_id": [1, None, None]}), file), "no id in row 2 (2 such rows)"),
        (lambda file: pq.write_table(pa.table({"user_id": pa.array([], pa.int64())}), file), "holds no ids"),
    ],
)
def test_mistakes(tmp_path, write, says):
    write(tmp_path / "ids")
    with pytest.raises(UserError) as caught:
        _read(tmp_path / "ids")
    assert says in str(caught.value)
    assert str(tmp_path / "ids") in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.text("ab", max_size=3)), st.sets(st.text("ab", max_size=3)))
def test_places(ids, among):
    among = sorted(among)
    assert places(pa.array(ids, pa.string()), pa.array(among, pa.string())).tolist() == [
        among.index(text) if text in among else -1 for text in ids
    ]
