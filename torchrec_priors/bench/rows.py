"""Makes the rows of a table: each variant of a shape is measured in a separate process."""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchrec_priors.bench.shapes import Shape
from torchrec_priors.bench.timed import Timed, in_a_process
from torchrec_priors.bench.workload import make_workload
from torchrec_priors.common.files import new_file
from torchrec_priors.ops.products import FP32, PIECES

Report = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """One of several ways to compute the same result, all of which are measured.

    Attributes:
        name: the name of the variant in the table.
        how: `ours` or `reference`.
        without: the optimisations that are left out.
        changes: changes to the configuration, as pairs of a dotted name and a value.
        items: the size of the catalogue; 0 for that of the shape.
    """

    name: str
    how: str = "ours"
    without: tuple[str, ...] = ()
    changes: tuple[tuple[str, Any], ...] = ()
    items: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the table; see docs/speed.md.

    Attributes:
        spread: half the distance between the quartiles of the repeats, as a share of the median.
        result: the result of the first repeat: the loss of a step, or a checksum.
        limit_share: the share of the machine's FLOP/s that is used for unavoidable FLOPs; the
            median of the repeats, each with the rate beside it.
        speedup, memory_ratio: time and memory relative to another row.
        forward_s: the median time of forward, if forward and backward are measured separately.
        sent_bytes: the largest number of bytes that a rank sends to others in a repeat; None if
            they were not counted.
    """

    shape: str
    variant: str
    median_s: float
    spread: float
    tokens_per_s: float
    peak_bytes: int
    extra_bytes: int
    result: float
    flops: float = 0.0
    matmul_flops_per_s: float = 0.0
    limit_share: float | None = None
    speedup: float | None = None
    memory_ratio: float | None = None
    forward_s: float | None = None
    sent_bytes: int | None = None

    @classmethod
    def of(cls, shape: str, variant: str, timed: Timed) -> "Row":
        """Makes the row of a variant from its repeats."""
        median = statistics.median(timed.seconds)
        quartiles = [median] * 3
        if len(timed.seconds) > 1:
            quartiles = statistics.quantiles(timed.seconds, n=4)

        return cls(
            shape=shape,
            variant=variant,
            median_s=median,
            spread=(quartiles[2] - quartiles[0]) / 2 / median,
            tokens_per_s=timed.tokens / median,
            peak_bytes=timed.peak_bytes,
            extra_bytes=timed.extra_bytes,
            result=timed.results[0],
            flops=timed.flops,
            matmul_flops_per_s=statistics.median(timed.rates) if timed.rates else 0.0,
            limit_share=_limit_share(timed) if timed.rates else None,
            forward_s=statistics.median(timed.forward) if timed.forward else None,
            sent_bytes=timed.sent_bytes if timed.forward else None,
        )

    def beside(self, reference: "Row") -> "Row":
        """Returns the row with speedup and memory ratio relative to a reference."""
        return replace(
            self,
            speedup=reference.median_s / self.median_s,
            memory_ratio=self.peak_bytes / reference.peak_bytes,
        )


def _limit_share(timed: Timed) -> float:
    beside = zip(timed.rates, timed.seconds, strict=True)
    return statistics.median(timed.flops / rate / seconds for rate, seconds in beside)


def variants_of(shape: Shape, ablations: Sequence[str]) -> list[Variant]:
    """Returns the variants of a shape, in the order of the table.

    Our path is the first and the reference the second one. Our path with each of the other kinds of
    products that this machine has follows (`ops/products.py`), then a special variant of the shape,
    and then our path without each of the given optimisations.
    """
    # It imports torch, which `bench --help` need not wait for.
    from torchrec_priors.ops.in_group_softmax_native import has_products

    variants = [Variant("ours"), Variant("reference", "reference")]
    if not shape.top:
        kinds = [kind for kind in PIECES if kind != FP32 and has_products(kind, shape.dim)]
        variants += [Variant(kind, changes=(("training.products", kind),)) for kind in kinds]
    if shape.name in ("pixel8m", "ebnerd"):
        variants.append(Variant("one head", changes=(("priors.tree", ()),)))
    if shape.top:
        variants.append(Variant("int8", changes=(("evaluation.tiles", "int8"),)))
    if shape.name == "merrec":
        variants.append(Variant("twice the catalogue", items=2 * shape.items))
    if not shape.top:
        variants += [Variant(f"without {name}", without=(name,)) for name in ablations]
    return variants


def measure(
    shape: Shape, variants: Sequence[Variant], repeats: int, threads: int, report: Report
) -> list[Row]:
    """Measures variants; returns their rows in the same order."""
    rows = []
    with _workloads(shape, report) as data_of:
        for variant in variants:
            report(f"{shape.name}: {variant.name}")
            timed = run(variant, shape, data_of(variant.items or shape.items), repeats, threads)
            rows.append(Row.of(shape.name, variant.name, timed))

    # Ratios are relative to the reference, if it is among the variants.
    references = [row for row in rows if row.variant == "reference"]
    if not references:
        return rows
    (reference,) = references
    return [row if row is reference else row.beside(reference) for row in rows]


def run(
    variant: Variant,
    shape: Shape,
    data: Path,
    repeats: int,
    threads: int,
    profile: Path | None = None,
) -> Timed:
    """Measures one variant in a separate process, as the peak memory of a process never falls."""
    arguments = [shape.name, variant.how, str(data), "--repeats", str(repeats)]
    arguments += ["--changes", json.dumps(dict(variant.changes))]
    if variant.without:
        arguments += ["--without", *variant.without]
    if profile is not None:
        arguments += ["--profile", str(profile)]
    return in_a_process(
        f"{shape.name}, {variant.name}", "torchrec_priors.bench.worker", arguments, threads
    )


def trace(shape: Shape, file: Path, threads: int) -> None:
    """Writes a trace of a few repeats of our path."""
    with _workloads(shape, lambda _: None) as data_of, new_file(file) as partial:
        run(Variant("ours"), shape, data_of(shape.items), 2, threads, partial)


def as_json(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Writes rows and a description of the machine as JSON."""
    return json.dumps({"rows": [asdict(row) for row in rows], "machine": machine}, indent=1)


@contextmanager
def _workloads(shape: Shape, report: Report) -> Iterator[Callable[[int], Path]]:
    """Yields a function that returns the shape's data set with a given number of items.

    The function makes each data set only once.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:

        def data_of(items: int) -> Path:
            data = Path(folder) / f"{shape.name}-{items}"
            if not data.exists():
                report(f"{shape.name}: generating {items:,} items")
                make_workload(replace(shape, items=items), data)
            return data

        yield data_of
