"""Ranges are said in the types of settings, and hold for files and for what code builds."""

import subprocess
import sys
from dataclasses import fields, replace
from typing import get_args

import pytest

from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Range, is_section, types_of
from torchrec_priors.settings.run_config import RunConfig

NUMBERS = [
    (section, name, kind)
    for section, part in types_of(RunConfig)
    if is_section(part)
    for name, kind in types_of(part)
    if Range.of(kind) is not None
]


def test_every_number_has_a_range():
    without = [
        f"{section}.{name}"
        for section, part in types_of(RunConfig)
        if is_section(part)
        for name, kind in types_of(part)
        if kind in (int, float)
    ]
    assert without == []
    assert len(NUMBERS) > 40


def _outside(limits: Range, kind: type) -> list[float]:
    """The nearest values on both sides."""
    step = 1 if kind is int else 1e-6
    low = limits.low if limits.above else limits.low - step
    high = limits.high if limits.below else limits.high + max(step, limits.high * 1e-6)
    values = [kind(low), kind(high)]
    return values + ([float("nan"), float("inf"), -float("inf")] if kind is float else [])


@pytest.mark.parametrize(
    ("section", "name", "kind"), NUMBERS, ids=[f"{each[0]}.{each[1]}" for each in NUMBERS]
)
def test_a_value_out_of_its_range_is_rejected_in_files_and_in_code(section, name, kind):
    for value in _outside(Range.of(kind), get_args(kind)[0]):
        with pytest.raises(UserError) as in_file:
            parse({section: {name: value}})
        built = RunConfig()
        setattr(getattr(built, section), name, value)
        with pytest.raises(UserError) as in_code:
            built.check()
        assert str(in_code.value) == str(in_file.value)
        assert str(in_code.value).startswith(f"{section}.{name} = {value} must ")
        assert "\n" not in str(in_code.value)


def test_a_section_is_checked_by_itself():
    for field in fields(RunConfig):
        if field.name in ("seed", "encoder"):
            continue
        section = getattr(RunConfig(), field.name)
        section.check()
        for name, kind in types_of(type(section)):
            if Range.of(kind) is not None:
                below = replace(section, **{name: get_args(kind)[0](-1)})
                with pytest.raises(UserError, match=rf"^{field.name}\.{name} = -1"):
                    below.check()


def test_a_wrong_type_is_named_before_a_value_out_of_its_range():
    with pytest.raises(UserError, match=r"'training\.steps' = 'many'"):
        parse({"model": {"dim": 0}, "training": {"steps": "many"}})


def test_reading_a_configuration_needs_no_library_of_arrays():
    code = "import sys, torchrec_priors.config; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = ("torch", "torchrec", "fbgemm_gpu", "numpy", "pyarrow", "ibis", "duckdb", "pandas")
    assert "torchrec_priors.config" in loaded
    assert [name for name in heavy if name in loaded] == []
