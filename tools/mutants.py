"""Do the tests of the core notice when the core is changed? Runs mutmut on a sample of mutants.

A mutant is one small change of the code: `+` becomes `-`, an argument becomes None, a number grows
by one. A mutant is killed if a test fails with it. A mutant that survives shows a line that no test
checks. Then either a test is missing, or the change makes no difference. In the second case,
`tests/mutants.toml` gives the reason.

mutmut works in the folder `mutants/`. Its configuration is in pyproject.toml.

    python tools/mutants.py --mutants 200 --seed 0
"""

import argparse
import json
import random
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXPLAINED = ROOT / "tests" / "mutants.toml"

# Each area has the same share of the sample, however much code it has.
AREAS = {
    "heads": ["heads/"],
    "loss": ["loss.py"],
    "ops": ["ops/"],
    "encoder": ["encoder/"],
    "sampling": ["sampling/"],
    "fusion": ["retrieval/fusion.py"],
    "metrics": ["metrics/"],
    "split": ["preparation/build/split.py"],
}
# What mutmut says about a mutant that a test, or its time limit, has caught.
KILLED = {"killed", "timeout", "suspicious", "segfault", "caught by type check"}
# Any pattern makes mutmut write all mutants and learn which tests run which function.
SMALLEST = "torchrec_priors.heads.score.*__mutmut_1"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--mutants", type=int, default=200, help="size of the sample")
    options.add_argument("--seed", type=int, default=0, help="which sample")
    options.add_argument("--at-once", type=int, default=2, help="processes")
    options.add_argument("--most", type=float, default=0.05, help="share that may survive")
    chosen = options.parse_args()

    run(["run", "--max-children", str(chosen.at_once), SMALLEST])
    sample = draw(chosen.mutants, random.Random(chosen.seed))
    names = [name for of_area in sample.values() for name in of_area]
    run(["run", "--max-children", str(chosen.at_once), *names])

    status = statuses()
    survivors = [name for name in names if status.get(name, "killed") not in KILLED]
    unexplained = report(sample, survivors, status)
    share = len(survivors) / len(names)
    print(f"{len(survivors)} of {len(names)} mutants survive ({share:.1%})")
    if unexplained:
        print(f"{unexplained} of them are not explained in {EXPLAINED.relative_to(ROOT)}")
    return int(share > chosen.most or unexplained > 0)


def run(arguments: list[str]) -> str:
    """Runs mutmut; returns what it prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mutmut failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def draw(size: int, generator: random.Random) -> dict[str, list[str]]:
    """Draws an equal number of mutants from each area; the same seed draws the same ones."""
    sample = {}
    for area, paths in AREAS.items():
        names: list[str] = []
        for file in sorted((ROOT / "mutants" / "torchrec_priors").rglob("*.meta")):
            inside = file.relative_to(ROOT / "mutants" / "torchrec_priors").as_posix()
            if inside.startswith(tuple(paths)):
                names += json.loads(file.read_text())["exit_code_by_key"]
        sample[area] = generator.sample(sorted(names), min(len(names), size // len(AREAS)))
    return sample


def statuses() -> dict[str, str]:
    """The status of every mutant that is not killed, by name."""
    lines = [line.strip().partition(": ") for line in run(["results"]).splitlines()]
    return {name: status for name, _, status in lines if status}


def report(sample: dict[str, list[str]], survivors: list[str], status: dict[str, str]) -> int:
    """Prints the survivors and a table of the areas; returns how many are not explained."""
    explained = tomllib.loads(EXPLAINED.read_text())["mutant"] if EXPLAINED.exists() else []
    unexplained = 0
    for name in survivors:
        change = run(["show", name])
        removed, added = changed_lines(change)
        reasons = [
            one["why"] for one in explained if one["line"] in removed and one["becomes"] in added
        ]
        print(f"\n{name}: {status[name]}{': ' + reasons[0] if reasons else ''}")
        if not reasons:
            unexplained += 1
            print(change.strip())

    print("\narea       mutants  survive")
    for area, names in sample.items():
        print(f"{area:10s} {len(names):7d} {len(set(names) & set(survivors)):8d}")
    return unexplained


def changed_lines(change: str) -> tuple[list[str], list[str]]:
    """The lines that a diff removes, and those it adds, without indentation."""
    lines = [line for line in change.splitlines() if not line.startswith(("---", "+++"))]
    removed = [line[1:].strip() for line in lines if line.startswith("-")]
    added = [line[1:].strip() for line in lines if line.startswith("+")]
    return removed, added


if __name__ == "__main__":
    sys.exit(main())
