"""Command lines that are wrong in one to three places, drawn from the apps' own options and the configuration's keys.

Each begins as one that works, on small data, so that what is spoilt is met as deep inside as it can be.
"""

import importlib
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from command_line import CONFIG, TINY
from fuzzed_values import (
    AMOUNTS,
    FLOATS,
    INTEGERS,
    NUMBERS,
    PRIORS,
    TEXTS,
    TIMES,
    URIS,
    WORDS,
    toml_value,
)
from typer.models import ArgumentInfo

from torchrec_priors.config import keys
from torchrec_priors.settings.run_config import RunConfig

APPS = (
    "prepare",
    "prior",
    "train",
    "evaluate",
    "recommend",
    "experiment",
    "plan",
    "bench",
    "export",
    "publish",
    "report",
)

# Larger ones are not a mistake: they run as long as one asks for.
_LONG_WORK = ("training.steps", "training.patience")
_WITH_OVERRIDES = ("train", "evaluate", "plan")
_HEADS = ("Comedy", "Drama", "comedy", "genre: Comedy", "all", "short-term / Drama")


@dataclass(frozen=True)
class Option:
    """One that an app takes.

    Attributes:
        flag: "" for an argument without a name.
        takes: what kind of value; "" for a switch.
    """

    flag: str
    takes: str


def options_of(app: str) -> list[Option]:
    """What the app's function declares."""
    function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
    found = []
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name == "return":
            continue
        declared, info = get_args(hint)
        named = [
            text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("-")
        ]
        flag = (
            ""
            if isinstance(info, ArgumentInfo)
            else [f"--{name.replace('_', '-')}", *named][-1].split("/")[0]
        )
        found.append(Option(flag, _kind(flag, declared)))
    return found


def _kind(flag: str, declared: Any) -> str:
    if flag.endswith(("memory", "bandwidth")):
        return "amount"
    if flag in ("--validation-from", "--test-from"):
        return "time"
    if flag in ("--only", "--mute", "--boost", "--at-least"):
        return "head"
    types = {
        declared,
        *get_args(declared),
        *(inner for part in get_args(declared) for inner in get_args(part)),
    }
    if bool in types:
        return ""
    return "number" if types & {int, float} else "place" if Path in types else "text"


class Ground:
    """A folder with everything that command lines name, right and wrong.

    Args:
        folder: is filled.
        raw, data, run: that work; none is written to.
    """

    def __init__(self, folder: Path, raw: Path, data: Path, run: Path) -> None:
        self.folder, self.raw, self.data, self.run = folder, raw, data, run
        self._new = 0
        (folder / "items.csv").write_text("item_id,label\n1,a\n2,b\n")
        (folder / "ids.txt").write_text("1\n2\n")
        (folder / "empty").write_text("")
        (folder / "bytes").write_bytes(bytes(range(256)) * 20)
        (folder / "deep.json").write_text("[" * 5000 + "]" * 5000)
        (folder / "deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
        (folder / "long.toml").write_text(f"seed = {'9' * 5000}\n")
        (folder / "dangling").symlink_to(folder / "nowhere")
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "nothing").mkdir()
        (folder / "own.py").write_text("raise SystemExit(3)\n")
        (folder / "tiny.toml").write_text(
            f"config = '{CONFIG}'\nseeds = [0]\n[cells.a]\nmodel.dim = 8\n"
        )
        unreadable = folder / "unreadable"
        unreadable.write_text("x = 1\n")
        unreadable.chmod(0)

    def new(self) -> str:
        """A path at which nothing is yet."""
        self._new += 1
        return str(self.folder / f"new-{self._new}")

    def place(self, draw: random.Random) -> str:
        """A path, of anything."""
        names = ("items.csv", "ids.txt", "empty", "bytes", "deep.json", "deep.toml", "long.toml", "dangling", "loop",
                 "nothing", "own.py", "tiny.toml", "unreadable", "nowhere", "nowhere/at/all", "items.csv/x", "x" * 300,
                 "ü/ß", ".", "..")  # fmt: skip
        inside = str(self.folder / draw.choice(names))
        others = ("/dev/null", "/dev/full", "/dev", str(self.data), str(self.run), str(CONFIG))
        return draw.choice(
            (inside, inside, inside, draw.choice(others), draw.choice(TEXTS), self.new())
        )

    def configuration(self, draw: random.Random) -> str:
        """A TOML file with a wrong value, or a key that there is not."""
        key = draw.choice((*keys(), "model", "priors", "seed", "modle.dim"))
        file = Path(self.new()).with_suffix(".toml")
        file.write_text(f"{key} = {toml_value(draw)}\n", encoding="utf8", errors="replace")
        return str(file)

    def experiment(self, draw: random.Random) -> str:
        """An experiment that is wrong."""
        parts = [f"config = '{CONFIG}'", "seeds = [0]", "[cells.a]", "model.dim = 8"]
        at = draw.randrange(len(parts))
        key = parts[at].split(" ")[0].strip("[]")
        wrong = (f"{key} = {toml_value(draw)}", f"[cells.{draw.choice(TEXTS)!r}]", "", f"budget = {toml_value(draw)}",
                 f"axes.x = {toml_value(draw)}", f"{key} = {draw.choice(NUMBERS)}")  # fmt: skip
        parts[at] = draw.choice(wrong)
        file = Path(self.new()).with_suffix(".toml")
        file.write_text("\n".join(parts), encoding="utf8", errors="replace")
        return str(file)

    def working(self, app: str) -> list[str]:
        """The arguments of a command that works, or would but for how long it takes."""
        run, data = ["--run", str(self.run)], ["--data", str(self.data)]
        tiny = [*TINY, "training.steps=1", "training.evaluate_every=1", "negatives.per_set=16"]
        return {
            "prepare": ["--dataset", "movielens", "--raw", str(self.raw), "--out", self.new()],
            "prior": [
                "item",
                *data,
                "--name",
                f"new{self._new}",
                "--from",
                str(self.folder / "items.csv"),
            ],
            "train": ["--config", str(CONFIG), *data, "--run", self.new(), *tiny],
            "evaluate": [*run, "--split", "test", "--name", "fuzzed"],
            "recommend": [*run, "--user", "10", "-k", "5"],
            "experiment": [self.experiment(random.Random(self._new)), *data, "--out", self.new()],
            "plan": ["--items", "1M", "--dim", "64", "--ranks", "2", "--ranks-per-node", "2"],
            "bench": ["--shape", "merec", "--repeats", "1"],
            "export": [*run, "--out", self.new()],
            "publish": [*run, "--to", self.new()],
            "report": ["--runs", str(self.run), "--out", self.new()],
        }[app]


def fuzzed(number: int, seed: int, ground: Ground) -> tuple[str, list[str]]:
    """(app, arguments) of one command line.

    Args:
        number: of it; apps take turns.
    """
    draw = random.Random(f"{seed} {number}")
    app = APPS[number % len(APPS)]
    words = _other_beginning(app, draw, ground) or ground.working(app)
    options = options_of(app)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        words = _spoilt(app, words, options, draw, ground)
    return app, [word.replace("\0", "") for word in words]


def _other_beginning(app: str, draw: random.Random, ground: Ground) -> list[str]:
    """Another use of the app, now and then."""
    data, run = ["--data", str(ground.data)], ["--run", str(ground.run)]
    if app == "prior" and draw.random() < 0.6:
        return [draw.choice(("graph", "user")), *data, "--name", f"fuzz{draw.randrange(10**9)}"]
    if app == "prepare" and draw.random() < 0.4:
        return [
            "--dataset",
            "marketplace",
            "--generate",
            "1000",
            "--raw",
            ground.new(),
            "--out",
            ground.new(),
        ]
    if app == "recommend" and draw.random() < 0.4:
        return [*run, "--users", str(ground.folder / "ids.txt"), "--out", ground.new()]
    if app == "recommend" and draw.random() < 0.3:
        return [*run, "--history", "1,2,3"]
    if app == "plan" and draw.random() < 0.5:
        return ["--config", str(CONFIG), *data, "--ranks", "2", "--device", "cpu"]
    return []


def _spoilt(
    app: str, words: list[str], options: list[Option], draw: random.Random, ground: Ground
) -> list[str]:
    """With one thing wrong, or not: some values are right by chance."""
    if app in _WITH_OVERRIDES and draw.random() < 0.5:
        return [*words, _override(app, draw)]
    if app in ("train", "plan") and draw.random() < 0.15 and "--config" in words:
        return _replaced(words, "--config", ground.configuration(draw))

    way = draw.random()
    option = draw.choice(options)
    if way < 0.75 and option.takes:
        value = _value(option, draw, ground)
        if not option.flag:
            return [*words, value]
        if option.flag in words and words.index(option.flag) + 1 < len(words):
            return _replaced(words, option.flag, value)
        return [*words, option.flag, value]
    if way < 0.85 and words:
        at = draw.randrange(len(words))
        return words[:at] + words[at + 1 :]
    if way < 0.9:
        return [*words, f"{option.flag}x", "1"]
    if way < 0.95:
        return [*words, *words[:2]]
    return [*words, option.flag] if option.flag else [*words, draw.choice(TEXTS)]


def _replaced(words: list[str], flag: str, value: str) -> list[str]:
    at = words.index(flag) + 1
    return [*words[:at], value, *words[at + 1 :]]


def _override(app: str, draw: random.Random) -> str:
    known = [key for key in keys() if key not in _LONG_WORK]
    if app == "evaluate" and draw.random() < 0.8:
        known = [key for key in known if key.startswith("evaluation.")]
    key = draw.choice(known)
    if draw.random() < 0.1:
        key = draw.choice(
            (*TEXTS, "model", "priors", key.upper(), f"{key}.x", f".{key}", key.replace(".", ".."))
        )
    if key == "priors.tree" and draw.random() < 0.7:
        levels = [draw.choice(PRIORS) for _ in range(draw.choice((1, 1, 2, 3)))]
        return f"{key}={levels!r}"
    if key in _LONG_WORK:
        return f"{key}=1"
    return f"{key}={_of_its_type(key, draw) if draw.random() < 0.6 else toml_value(draw)}"


def _of_its_type(key: str, draw: random.Random) -> str:
    """A value of the type that a setting has: what is wrong with it is met later than its type."""
    present: Any = RunConfig()
    for part in key.split("."):
        present = getattr(present, part, None)
    if isinstance(present, bool):
        return draw.choice(("true", "false"))
    if isinstance(present, int):
        return draw.choice(INTEGERS)
    if isinstance(present, float):
        return draw.choice(FLOATS)
    if isinstance(present, str):
        return draw.choice(WORDS)
    return draw.choice(
        ("[]", "{}", '["x"]', "{x = 1}", '{x = "y"}', '{item = {type = "column_wise"}}')
    )


def _value(option: Option, draw: random.Random, ground: Ground) -> str:
    takes = option.takes if draw.random() < 0.85 else "text"
    if option.flag in ("--generate", "--repeats") and draw.random() < 0.5:
        return draw.choice(
            [number for number in NUMBERS if number not in ("999999999", "1e9", "65537")]
        )
    head = f"{draw.choice((*_HEADS, *TEXTS))}{draw.choice(('', '=0.5', '=2', '=', f'={draw.choice(NUMBERS)}'))}"
    return {
        "number": lambda: draw.choice((draw.choice(NUMBERS), draw.choice(INTEGERS))),
        "amount": lambda: draw.choice(AMOUNTS),
        "time": lambda: draw.choice(TIMES),
        "head": lambda: head,
        "place": lambda: ground.place(draw),
        "text": lambda: draw.choice(
            (
                draw.choice(WORDS),
                draw.choice(TEXTS),
                draw.choice(NUMBERS),
                ground.place(draw),
                draw.choice(URIS),
            )
        ),
    }[takes]()


def shown(app: str, arguments: list[Any]) -> str:
    """A command line for a message, long words cut."""
    words = [
        word if len(word) < 120 else f"{word[:60]}...({len(word)})" for word in map(str, arguments)
    ]
    return os.fsencode(" ".join([app, *map(repr, words)])).decode("utf8", "backslashreplace")
