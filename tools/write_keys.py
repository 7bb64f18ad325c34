"""Writes `docs/keys.md`, the reference of all configuration keys: `make docs-keys`."""

from pathlib import Path

from torchrec_priors.settings.reference import key_reference
from torchrec_priors.settings.run_config import RunConfig

FILE = Path(__file__).resolve().parents[1] / "docs" / "keys.md"


if __name__ == "__main__":
    FILE.write_text(key_reference(RunConfig), encoding="utf8")
