"""docs/keys.md is what the settings say, and says it of every key."""

import dataclasses
from pathlib import Path

from torchrec_priors.config import keys
from torchrec_priors.settings.reference import attributes, key_reference
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.settings.sharding import TableSharding

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_key_reference_is_fresh():
    written = (REPOSITORY / "docs" / "keys.md").read_text(encoding="utf8")
    assert written == key_reference(RunConfig), "run `make docs-keys`"


def test_every_key_is_in_the_reference_once():
    rows = [line for line in key_reference(RunConfig).splitlines() if line.startswith("| `")]
    named = [row.split("`")[1] for row in rows]
    of_tables = [f"sharding.tables.NAME.{each.name}" for each in dataclasses.fields(TableSharding)]
    assert sorted(named) == sorted([*keys(), *of_tables])
    assert all(len(row.replace("\\|", "").split(" | ")) == 4 for row in rows)


def test_docstrings_describe_every_key_and_no_other():
    for part in dataclasses.fields(RunConfig):
        if part.name != "seed":
            section = part.default_factory
            assert list(attributes(section)) == [each.name for each in dataclasses.fields(section)]
