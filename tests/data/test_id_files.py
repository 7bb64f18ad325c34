"""Ids come out of a file as they stand in it, whatever its form; what is wrong with it is said in a line."""

import gzip
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.id_files import places, read_ids


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


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ids_of_any_characters_stand_in_quotes(end, tmp_path):
    ids = [
        "a,b",
        'says "x"',
        "two\nlines",
        " blank ",
        "nul\0",
        "007",
        "é" * 3,
        "x" * 3_000_000,
        '"',
    ]
    quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"' for text in ids]
    (tmp_path / "ids").write_bytes(
        end.join(["user_id", *quoted, "  plain ", 'in"side', "", '""']).encode()
    )
    assert _read(tmp_path / "ids") == [*ids, "plain", 'in"side']


PARQUET = {
    "large text": pa.array(["9", "7"], pa.large_string()),
    "views": pa.array(["9", "7"], pa.string_view()),
    "dictionary": pa.array(["9", "7"]).dictionary_encode(),
    "bytes": pa.array([b"9", b"7"]),
    "int8": pa.array([9, 7], pa.int8()),
    "uint64": pa.array([9, 7], pa.uint64()),
    "float": pa.array([9, 7], pa.float64()),
    "decimal": pa.array([Decimal(9), Decimal(7)], pa.decimal128(38, 0)),
    "decimal with a fraction": pa.array([Decimal(9), Decimal(7)], pa.decimal128(10, 2)),
    "JSON": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["9", "7"])),
}


@pytest.mark.parametrize("ids", PARQUET.values(), ids=PARQUET)
def test_parquet_of_any_type(ids, tmp_path):
    pq.write_table(pa.table({"user_id": ids}), tmp_path / "ids.parquet", row_group_size=1)
    assert _read(tmp_path / "ids.parquet") == ["9", "7"]


def test_the_largest_integers_and_dates_are_ids(tmp_path):
    for ids, texts in (
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([-(2**63)]), [str(-(2**63))]),
        (pa.array([1], pa.date32()), ["1970-01-02"]),
    ):
        pq.write_table(pa.table({"user_id": ids}), tmp_path / "ids.parquet")
        assert _read(tmp_path / "ids.parquet") == texts


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
        (lambda file: file.write_text("7,x\n8,y\n"), "give one id per line"),
        (
            lambda file: file.write_text('7\n8 "x", y\n'),
            "line 2: '8 \"x\", y' has a comma: give one id per line",
        ),
        (lambda file: file.write_text('7\n"8\n9\n'), "line 2: a quote that is not closed"),
        (lambda file: file.write_text('7\n"8" 9\n'), "line 2: a quote that is not closed"),
        (
            lambda file: file.write_bytes(b"7\n\xff\xfe\n"),
            "line 2 cannot be read, as it is not UTF-8 text",
        ),
        (lambda file: file.write_bytes(gzip.compress(b"7")), "is compressed: unpack it"),
        (
            lambda file: pq.write_table(pa.table({"user_id": [[1]]}), file),
            "ids are list<element: int64>: give integers",
        ),
        (
            lambda file: pq.write_table(pa.table({"user_id": [1.5]}), file),
            "floating-point numbers, such as 1.5",
        ),
        (
            lambda file: pq.write_table(pa.table({"user_id": [b"\xff"]}), file),
            "bytes that are not UTF-8",
        ),
        (
            lambda file: pq.write_table(pa.table({"user_id": pa.nulls(2)}), file),
            "no id in row 1 (2 such rows)",
        ),
        (lambda file: file.write_bytes(b"PAR1 cut"), "cannot be read"),
        (
            lambda file: pq.write_table(pa.table({"user": [1]}), file),
            "has no column 'user_id' (it has user)",
        ),
        (
            lambda file: pq.write_table(pa.table({"user_id": [1, None, None]}), file),
            "no id in row 2 (2 such rows)",
        ),
        (
            lambda file: pq.write_table(pa.table({"user_id": pa.array([], pa.int64())}), file),
            "holds no ids",
        ),
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
