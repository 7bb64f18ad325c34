"""From an installed wheel, outside the repository: what the documents say to write and to type, as it stands."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY

pytestmark = pytest.mark.slow  # a wheel is built and installed, and a few dozen commands run

CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf8")
DATA = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs an app of a wheel that was built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY], check=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)

    path = ":".join(map(str, (folder / "site", Path(__file__).parent, Path(__file__).parents[1])))
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("commands_served.py")],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert str(folder / "site") in server.stdout.readline()

    def run(name, *arguments, cwd=folder):
        server.stdin.write(
            json.dumps([name, [str(argument) for argument in arguments], str(cwd)]) + "\n"
        )
        server.stdin.flush()
        code, out, err = json.loads(server.stdout.readline())
        assert code == 0, err
        return out

    with server:
        yield run


def test_a_corpus_by_name(installed, small_raw, tmp_path):
    out = installed(
        "prepare", "--dataset", "movielens", "--raw", small_raw, "--out", tmp_path / "data"
    )
    assert "prior genre (item)" in out


def test_a_configuration_by_name(installed, small_data, tmp_path):
    tiny = ["training.steps=2", "model.dim=8", "training.batch=8"]
    run = tmp_path / "run"
    out = installed("train", "--config", "small", "--data", small_data, "--run", run, *tiny)
    assert "best validation" in out


FILES = ("shop.py", "big_shop.py", "popularity.py", "recurrent.py", "views.py")


@pytest.fixture
def shop(tmp_path):
    """A folder with a log, a catalogue, and the files of CONTRIBUTING.md."""
    for name, code in zip(FILES, _blocks("python"), strict=True):
        (tmp_path / name).write_text(code)
    shutil.copytree(REPOSITORY / "torchx_configs", tmp_path / "torchx_configs")
    chance, items = random.Random(0), [f"i{number}" for number in range(60)]
    (tmp_path / "raw").mkdir()
    rows = [f'{item},"Thing {item}, new",{"abc"[number % 3]}' for number, item in enumerate(items)]
    (tmp_path / "raw" / "items.csv").write_text("\n".join(["item_id,title,category", *rows]))
    users = ["ann", *(f"u{number}" for number in range(40))]
    rows = [f"{user},{chance.choice(items)},{1000 * t}" for user in users for t in range(9)]
    (tmp_path / "raw" / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    return tmp_path


def _blocks(language, document=CONTRIBUTING):
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def test_a_corpus_a_prior_a_backbone_and_a_baseline_model_of_ones_own(installed, shop):
    commands = [
        shlex.split(line, comments=True) for block in _blocks("sh") for line in block.splitlines()
    ]
    typed = [words[1:] for words in commands if words[:1] == ["torchrec-priors"]]
    assert [words[0] for words in typed] == [
        "prepare", "train", "evaluate", "recommend", "train", "recommend", "train", "train", "recommend",
    ]  # fmt: skip
    said = [
        installed(*words, *(["training.steps=4"] if words[0] == "train" else []), cwd=shop)
        for words in typed
    ]
    assert "prior category (item): a 20, b 20, c 20" in said[0]
    installed(
        "prepare",
        "--dataset",
        "big_shop.py",
        "--raw",
        "raw",
        "--out",
        "prepared/big_shop",
        cwd=shop,
    )
    contents = [
        json.loads((shop / "prepared" / name / "manifest.json").read_text())
        for name in ("shop", "big_shop")
    ]
    assert contents[0]["content_sha256"] == contents[1]["content_sha256"]
    assert "41 users, 60 items" in said[2]
    assert "Thing i" in said[3]
    assert "popularity class" in said[5]
    assert "best validation" in said[6]
    assert "interest " in said[8]


def test_a_prior_of_ones_own(installed, shop, small_raw):
    """docs/data.md, "Your own prior", on a small log in place of MovieLens 100K."""
    section = re.search(r"## Your own prior\n(.*?)\n##", DATA, re.DOTALL)[1]
    installed(
        "prepare",
        "--dataset",
        "movielens",
        "--raw",
        small_raw,
        "--out",
        "prepared/ml-100k",
        cwd=shop,
    )
    (mapping,) = _blocks("csv", section)
    (shop / "moods.csv").write_text(mapping)
    commands = [
        shlex.split(line) for block in _blocks("sh", section) for line in block.splitlines()
    ]
    assert [words[:2] for words in commands] == [["torchrec-priors", app] for app in
        ("prior", "train", "prior", "prior", "prior", "prior", "prior", "train")]  # fmt: skip
    fast = {"train": ["training.steps=2", "model.dim=8", "training.batch=8"]}
    said = [installed(*words[1:], *fast.get(words[1], []), cwd=shop) for words in commands]
    assert "prior mood (item): no mood 146, light 2, adventurous 2" in said[0]
    assert "prior community (graph): 1: " in said[2]
    assert "prior crowd (user): users 1 " in said[3]
    assert "prior job (user): others " in said[4]
    assert "crowd" in said[5]
    assert "best validation" in said[1]
    assert "best validation" in said[7]
