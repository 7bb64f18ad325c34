"""Forms of times are recognised, and every text is converted, or null if it is no such time."""

import pyarrow as pa
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw.times import TimeForm, recognised


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["2024-03-01", "2024/03/02"], "iso"),
        (["2024-03-01 10:00", "2024-03-01T10:00:01,5 Z"], "iso"),
        (["1709251200", "", "1709251201.5"], "s"),
        (["1709251200000"], "ms"),
        (["1709251200000000"], "us"),
        (["1709251200000000000"], "ns"),
        (["20240301", "20240302"], "%Y%m%d"),
        (["12345678"], None),
        (["0", "1", "2"], None),
        (["01.03.2024"], None),
        (["2024-03-01", "x", "2024-03-02"], "iso"),
        ([], None),
    ],
)
def test_what_is_recognised(texts, name):
    form = recognised(pa.array(texts, pa.string()))
    assert (form and form.name) == name


@pytest.mark.parametrize(
    ("name", "text", "milliseconds"),
    [
        ("iso", "2024-03-01", 1709251200000),
        ("iso", "2024-03-01 00:00:00.123999", 1709251200123),
        ("iso", "2024-03-01T01:00:00+01:00", 1709251200000),
        ("iso", "2024-03-01 00:00:00 GMT", 1709251200000),
        ("iso", " 2024-03-01 00:00 -0130 ", 1709256600000),
        ("iso", "2024-02-30", None),
        ("iso", "01.03.2024", None),
        ("iso", "", None),
        ("s", "1709251200", 1709251200000),
        ("s", "1709251200.25", 1709251200250),
        ("s", "9" * 18, None),
        ("ms", "-5", -5),
        ("us", "1709251200000999", 1709251200000),
        ("ns", "1709251200000999999", 1709251200000),
        ("s", "1e9", None),
        ("s", "9" * 30, None),
        ("order", "17", 17),
        ("order", "1.5", None),
        ("%d.%m.%Y %H:%M", "01.03.2024 00:00", 1709251200000),
        ("%d.%m.%Y %H:%M", "2024-03-01", None),
        ("%Y%m%d", "20240301", 1709251200000),
    ],
)
def test_conversions(name, text, milliseconds):
    # Between others, because a wrong text must not change its neighbours.
    form = TimeForm(name)
    neighbours = pa.array([text, None, text, "nonsense"], pa.string())
    assert form.milliseconds(neighbours).to_pylist() == [milliseconds, None, milliseconds, None]


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match="'seconds' is not a form of times: give s, ms"):
        TimeForm("seconds")
