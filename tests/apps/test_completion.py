"""What the shell's script gets for the words that were typed, and the versions."""

import os
import subprocess
import sys

import pytest

import torchrec_priors


def _typed(*arguments, **variables):
    done = subprocess.run(
        [sys.executable, "-m", "torchrec_priors.apps", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def _completed(words):
    last = len(words.split()) - (not words.endswith(" "))
    return _typed(COMP_WORDS=words, COMP_CWORD=str(last), _TORCHREC_PRIORS_COMPLETE="complete_bash")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("torchrec-priors pr", ["prepare", "prior"]),
        ("torchrec-priors prior g", ["graph"]),
        ("torchrec-priors prior --weights p", ["pmi"]),
        ("torchrec-priors train --config ml-1", ["ml-100k", "ml-100k-context-50", "ml-1m"]),
    ],
)
def test_words_are_completed(words, found):
    assert _completed(words) == found


def test_the_script_of_a_named_shell_calls_the_command():
    """Whichever shell runs the tests."""
    shown = _typed("--show-completion", "bash")
    assert "_TORCHREC_PRIORS_COMPLETE=complete_bash" in shown


def test_versions():
    said = _typed("--version")
    assert said[:2] == ["torchrec-priors", torchrec_priors.__version__]
    assert "torchrec" in said
    assert "fbgemm-gpu" in said
