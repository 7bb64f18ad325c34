"""The app `bench`: measures speed and memory, and compares them with a dense reference."""

import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.arguments import check_run
from torchrec_priors.apps.threads import check_threads, warn_if_busy
from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.shapes import NAMES, PARTS, SHAPES, check_shape
from torchrec_priors.common.limits import check_most
from torchrec_priors.common.progress import stage_bar
from torchrec_priors.errors import UserError

_MOST_REPEATS = 10_000
_MOST_SECONDS = 300
_BUSY = "the figures will be those of a busy machine"
_CASE = "4 heads"  # of a service, if neither a run nor a case is given


def bench(
    shape: Annotated[str, Option(help=f"What to measure: {', '.join(NAMES)}.")],
    repeats: Annotated[int, Option(help="Repeats of each variant; the median counts.")] = 5,
    threads: Annotated[
        int | None,
        Option(help="The most threads with which each process computes. [cores of this machine]"),
    ] = None,
    ablations: Annotated[
        bool,
        Option("--ablations", help="Also leave out each optimisation in turn (training shapes)."),
    ] = False,
    only: Annotated[
        list[str] | None,
        Option(help="Measure only this variant, in addition to `ours`. Can be repeated."),
    ] = None,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object with `rows` instead of the table.")
    ] = False,
    profile: Annotated[
        Path | None,
        Option(
            help="Also write a trace of the variant `ours` to this file, for chrome://tracing or "
            "Perfetto."
        ),
    ] = None,
    run: Annotated[
        Path | None, Option(help="Folder of the trained run to serve (shape serve).")
    ] = None,
    case: Annotated[
        str | None,
        Option(
            help="What to serve instead of a trained run (shape serve): 4 heads, 45 heads, "
            "64 heads, or merrec. [4 heads]"
        ),
    ] = None,
    seconds: Annotated[
        float, Option(help="Seconds of each measurement of a service (shape serve).")
    ] = 10.0,
) -> None:
    """Measures a shape: this package, the dense reference and the machine's limit.

    Every variant runs in a separate process, one after another.
    """
    check_shape(shape)
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    check_most("--repeats", repeats, _MOST_REPEATS)
    check_threads(threads)

    if shape != "serve" and (run is not None or case is not None):
        raise UserError("--run and --case belong to --shape serve")
    if not 0 < seconds <= _MOST_SECONDS:
        raise UserError(f"--seconds must be above 0 and at most {_MOST_SECONDS}, not {seconds}")

    if run is not None and case is not None:
        raise UserError("give either --run or --case")
    if run is not None:
        check_run(run)
    if shape in PARTS and (only or ablations or profile is not None):
        raise UserError(
            f"--shape {shape} cannot be combined with --only, --ablations and --profile"
        )

    with command.starting():
        from torchrec_priors.bench import ablations as optimisations
        from torchrec_priors.bench import markdown, rows

    cores = threads or len(os.sched_getaffinity(0))
    machine = {"threads": cores, "machine": platform.machine(), "processor": platform.processor()}

    def print_rows(measured: list[Row]) -> None:
        if as_json:
            print(rows.as_json(measured, machine))
        else:
            print(markdown.table(measured))

    if shape in PARTS:
        if shape == "launches":
            _count_launches(as_json)
            return
        if shape == "contention":
            _measure_contention(repeats, cores, machine, as_json)
            return
        if shape == "serve":
            _measure_service(run, case, seconds, repeats, cores, machine, as_json)
            return
        warn_if_busy(_BUSY)
        with stage_bar() as bar:
            measured = _measure_part(shape, repeats, cores, bar.set_description_str)
        print_rows(measured)
        return

    described = SHAPES[shape]
    # --only may name an optimisation even without --ablations, so all optimisations are variants
    # then.
    names_of_ablations = optimisations.NAMES if ablations or only else ()
    variants = rows.variants_of(described, names_of_ablations)
    if only:
        names = [variant.name for variant in variants]
        for name in only:
            if name not in names:
                raise UserError(f"--only: there is no variant '{name}': {', '.join(names)}")
        # The other variants are compared with "ours", so it is always measured.
        variants = [variant for variant in variants if variant.name in ("ours", *only)]

    warn_if_busy(_BUSY)
    with stage_bar() as bar:
        measured = rows.measure(described, variants, repeats, cores, bar.set_description_str)
        if profile is not None:
            bar.set_description_str(f"{shape}: trace")
            rows.trace(described, profile, cores)

    print_rows(measured)
    if profile is not None:
        print(f"trace written to {profile}")


def _count_launches(as_json: bool) -> None:
    """Counts kernels and waits, and prints them."""
    from torchrec_priors.bench import launches

    with stage_bar() as bar:
        rows = launches.count_launches(bar.set_description_str)
    print(launches.as_json(rows) if as_json else launches.table(rows))


def _measure_contention(repeats: int, threads: int, machine: dict[str, Any], as_json: bool) -> None:
    """Measures what other processes cost, and prints the figures."""
    from torchrec_priors.bench import contention

    warn_if_busy(_BUSY)
    with stage_bar() as bar:
        measured = contention.measure(repeats, threads, bar.set_description_str)
    print(contention.as_json(measured, machine) if as_json else contention.table(measured))


def _measure_service(
    run: Path | None,
    case: str | None,
    seconds: float,
    repeats: int,
    threads: int,
    machine: dict[str, Any],
    as_json: bool,
) -> None:
    """Measures a service, and prints the figures."""
    from torchrec_priors.bench import serve

    name = case or _CASE
    serve.check_case(name)
    warn_if_busy(_BUSY)
    with stage_bar() as bar:
        report = bar.set_description_str
        measured = serve.measure(run, name, seconds, repeats, threads, report)
    print(serve.as_json(measured, machine) if as_json else serve.table(measured))


def _measure_part(
    shape: str, repeats: int, threads: int, report: Callable[[str], None]
) -> list[Row]:
    """Measures one of `PARTS`: the shapes that have rows of their own kind, but no variants."""
    from torchrec_priors.bench import attention, data_path, requests, scaling, sharding

    if shape == "attention":
        return attention.attention_rows(repeats, threads, report)
    if shape == "requests":
        return requests.request_rows(repeats, threads, report)
    if shape == "sharding":
        return sharding.sharding_rows(repeats, threads, report)

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if shape == "prepare":
            return data_path.prepare_rows(Path(folder), report)
        if shape == "scaling":
            return scaling.scaling_rows(Path(folder), repeats, report)
        return data_path.reader_rows(Path(folder), repeats, report)


def main() -> None:
    command.run(bench, single_process=True)


if __name__ == "__main__":
    main()
