"""Damages files at random and says what a command made of it.

A command may give what it gives undamaged, to the last bit; or end with exit code 2 or 1 and one line; or leave the
damaged part out and say so. Anything else is a fault: other content without a word, a traceback, a crash.
"""

import contextlib
import io
import logging
import os
import random
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchrec_priors.apps import command

PAGE = 4096
_SAYS = re.compile(
    r"damaged|cannot be read|is missing|checksum|no longer|not as it was|evaluate again|train again|is cut"
)


@dataclass(frozen=True)
class Outcome:
    """What a command came to.

    Attributes:
        said: standard error and what it printed about files that it left out.
        result: all that must be the same when nothing is damaged.
    """

    code: int
    said: str
    result: object
    trace: str = ""

    @property
    def one_line(self) -> bool:
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return self.code in (1, 2) and len(lines) == 1 and "Traceback" not in self.said


@dataclass(frozen=True)
class Subject:
    """Files of one kind, and a command that reads them.

    Attributes:
        home: the folder that is copied for every damage.
        files: paths in it.
        other: a folder with files of the same kind at the same paths, for `replaced`.
        read: called with the copy; what it returns must not depend on where the copy is.
    """

    name: str
    home: Path
    files: list[str]
    other: Path
    read: Callable[[Path], object]


@dataclass
class Findings:
    tried: int = 0
    same: int = 0
    refused: int = 0
    said: int = 0
    faults: list[str] = field(default_factory=list)


def run(app: Callable[..., object], *arguments: object) -> str:
    """An app in this process: what it prints; raises SystemExit, its standard error having been written."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            command.run(app, [str(argument) for argument in arguments])
        except SystemExit as end:
            if end.code:
                raise
    return out.getvalue()


@contextlib.contextmanager
def _logged_to(stream: io.StringIO) -> Iterator[None]:
    """What is logged stands there, too: the apps' own handler writes to the standard error of when it was made."""
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    logging.getLogger("torchrec_priors").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("torchrec_priors").removeHandler(handler)


def outcome(read: Callable[[Path], object], place: Path) -> Outcome:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), _logged_to(said):
        try:
            result = read(place)
            return Outcome(0, said.getvalue(), result)
        except SystemExit as end:
            return Outcome(int(end.code or 0), said.getvalue(), None)
        except (
            ValueError
        ) as error:  # UserError of a function that was called as people's programs do
            if type(error).__name__ == "UserError":
                return Outcome(2, f"error: {error}", None)
            return Outcome(-1, said.getvalue(), None, traceback.format_exc())
        except Exception:
            return Outcome(-1, said.getvalue(), None, traceback.format_exc())


def damage(file: Path, kind: str, draw: random.Random, other: Path) -> bool:
    """Whether the file is another one now."""
    content = file.read_bytes()
    if kind == "flip" and content:
        at = draw.randrange(len(content))
        changed = content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    elif kind == "zero" and content:
        at = draw.randrange(-(-len(content) // PAGE)) * PAGE
        changed = content[:at] + bytes(len(content[at : at + PAGE])) + content[at + PAGE :]
    elif kind == "cut" and content:
        changed = content[: draw.randrange(len(content))]
    elif kind == "doubled":
        changed = content + content
    elif kind == "emptied":
        changed = b""
    elif kind == "replaced" and other.is_file():
        changed = other.read_bytes()
    elif kind == "removed":
        file.unlink()
        return True
    else:
        return False
    file.unlink()  # a copy may be a link to what it is of
    file.write_bytes(changed)
    return changed != content


KINDS = ("flip", "flip", "flip", "zero", "cut", "doubled", "emptied", "replaced", "removed")


def campaign(
    subjects: list[Subject], times: int, seed: int, scratch: Path, say: Callable[[str], None]
) -> Findings:
    """So many damages, over all subjects and their files in turn."""
    findings, expected = Findings(), dict[str, Outcome]()
    for number in range(times):
        draw = random.Random(f"{seed} {number}")
        subject = subjects[number % len(subjects)]
        if subject.name not in expected:
            place = _copied(subject.home, scratch)
            expected[subject.name] = outcome(subject.read, place)
            assert expected[subject.name].code == 0, (subject.name, expected[subject.name])
        place = _copied(subject.home, scratch)
        path, kind = draw.choice(subject.files), draw.choice(KINDS)
        if not damage(place / path, kind, draw, subject.other / path):
            continue
        findings.tried += 1
        found, right = outcome(subject.read, place), expected[subject.name]
        what = f"{number}: {subject.name}: {path} {kind}"
        if found.trace:
            findings.faults.append(
                f"{what}: traceback: {found.trace.splitlines()[-1]}\n{found.trace}"
            )
        elif found.code == 0 and found.result == right.result:
            findings.same += 1
        elif found.one_line:
            findings.refused += 1
        elif found.code == 0 and _says_more(found, right):
            findings.said += 1
        elif found.code == 0:
            findings.faults.append(
                f"{what}: other content without a word: {_difference(found.result, right.result)}"
            )
        else:
            findings.faults.append(f"{what}: exit code {found.code}: {found.said}")
        if findings.faults and findings.faults[-1].startswith(f"{number}:"):
            say(findings.faults[-1].splitlines()[0])
    return findings


def _copied(home: Path, scratch: Path) -> Path:
    """Always at the same place, as messages and records hold paths."""
    place = scratch / "copy"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(home, place, copy_function=os.link)
    for file in place.rglob("*"):
        if file.is_file() and file.suffix != ".parquet":  # commands add to these
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    return place


def _says_more(found: Outcome, right: Outcome) -> bool:
    return any(_SAYS.search(line) for line in _lines(found) - _lines(right))


def _lines(outcome: Outcome) -> set[str]:
    """All that a person could read."""
    texts = outcome.result.values() if isinstance(outcome.result, dict) else [outcome.result]
    return {
        line
        for text in [outcome.said, *texts]
        if isinstance(text, str)
        for line in text.splitlines()
    }


def _difference(found: object, right: object) -> str:
    if isinstance(found, dict) and isinstance(right, dict):
        keys = [key for key in {*found, *right} if found.get(key) != right.get(key)]
        return f"{keys[:5]}: {str(found.get(keys[0]))[:200]} for {str(right.get(keys[0]))[:200]}"
    return f"{str(found)[:200]} for {str(right)[:200]}"
