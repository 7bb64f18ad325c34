"""The app `plan`: estimates memory, time and cost of sharded tables on machines you do not have."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.completion import complete_config
from torchrec_priors.apps.threads import check_threads, warn_if_busy
from torchrec_priors.common.progress import stage_bar
from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import read_counts
from torchrec_priors.planning.numbers import DEFAULTS, Numbers
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.run_config import RunConfig


def plan(
    items: Annotated[
        str | None,
        Option(
            help="Rows of the item table, such as 1255665, 1.26M or 10B. Several values, separated "
            "by commas, give a sweep."
        ),
    ] = None,
    dim: Annotated[int | None, Option(help="Width of the rows.")] = None,
    ranks: Annotated[
        str,
        Option(
            help="Number of devices, over all nodes. Several values, separated by commas, give a "
            "sweep."
        ),
    ] = "8",
    device: Annotated[
        str,
        Option(
            help="h200 (141 GB at 4.8 TB/s), h100 (80 GB at 3.35 TB/s), a100 (80 GB at 2.04 TB/s), "
            "each with its DGX: 8 per node, NVLink of 450, 450 and 300 GB/s, network of 50, 50 and "
            "25 GB/s per GPU, 256 GB of host memory per GPU; cuda (TorchRec's defaults: 32 GiB); "
            "cpu (assumed: 128 GB at 51 GB/s per rank, 2 per node)."
        ),
    ] = "h200",
    memory: Annotated[
        str | None, Option(help="Memory of a device, such as 141GB or 80GiB. [as published]")
    ] = None,
    host_memory: Annotated[
        str | None, Option(help="Memory of the host for each GPU. [as published]")
    ] = None,
    memory_bandwidth: Annotated[
        str | None, Option(help="Bytes per second of a device's memory, such as 4.8TB.")
    ] = None,
    host_bandwidth: Annotated[
        str | None, Option(help="Bytes per second of the host's memory for each GPU.")
    ] = None,
    host_link_bandwidth: Annotated[
        str | None, Option(help="Bytes per second between a GPU and its host, one way.")
    ] = None,
    node_bandwidth: Annotated[
        str | None,
        Option(help="Bytes per second from a rank to other ranks of its node, one way."),
    ] = None,
    network_bandwidth: Annotated[
        str | None, Option(help="Bytes per second from a rank to other nodes, one way.")
    ] = None,
    ranks_per_node: Annotated[
        int | None, Option(help="Number of ranks on each node. [8 GPUs, 2 CPUs]")
    ] = None,
    batch: Annotated[
        int | None, Option(help=f"Number of windows of a rank in a step. [{DEFAULTS.batch}]")
    ] = None,
    context: Annotated[
        int | None,
        Option(
            help=f"Number of items in a window, including those that are predicted. "
            f"[{DEFAULTS.context}]"
        ),
    ] = None,
    negatives: Annotated[
        int | None,
        Option(
            help=f"Number of negatives in a step, over all item sets and ranks. "
            f"[{DEFAULTS.negatives}]"
        ),
    ] = None,
    dense: Annotated[
        str | None, Option(help="Parameters of the dense model, such as 7.5M. [none]")
    ] = None,
    layers: Annotated[
        int | None,
        Option(help="Number of layers of an HSTU encoder. [activations are not counted]"),
    ] = None,
    accumulate: Annotated[
        int | None,
        Option(help="With --layers: number of parts that a rank's windows are divided into. [1]"),
    ] = None,
    recompute: Annotated[
        bool, Option("--recompute", help="With --layers: compute layers again in backward.")
    ] = False,
    precision: Annotated[
        str | None, Option(help="With --layers: precision of the encoder, fp32 or bf16. [fp32]")
    ] = None,
    queries: Annotated[
        int | None,
        Option(
            help="With --layers: number of paths of the prior tree in which a position has "
            "positives. [1]"
        ),
    ] = None,
    optimizer: Annotated[
        str, Option(help="Optimizer of the tables: rowwise-adagrad, sgd, adagrad or adam.")
    ] = "rowwise-adagrad",
    rows: Annotated[str, Option(help="Precision of the rows: fp32 or fp16.")] = "fp32",
    sharding: Annotated[
        str | None,
        Option(help="row_wise, table_wise, column_wise, or auto: the planner's choice. [row_wise]"),
    ] = None,
    kernel: Annotated[
        str | None,
        Option(
            help="fused, fused_uvm, fused_uvm_caching (rows in the host's memory), or auto. [fused]"
        ),
    ] = None,
    reserve: Annotated[
        float,
        Option(
            help="Share of a device's memory for uses that are not counted: CUDA, the allocator, "
            "copies."
        ),
    ] = 0.15,
    share_of_peak: Annotated[
        float,
        Option(
            help="With --config: share of a device's peak of operations that language models reach."
        ),
    ] = 0.4,
    text_tokens: Annotated[
        int | None,
        Option(
            min=1,
            max=1 << 16,
            help="With --config and an item LLM: average number of tokens of an item's text. "
            "[that of --data, or 64]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        Option(
            help="TOML file of a run's configuration, or the name of one that comes with the "
            "project, instead of --dim, --batch, --context, ...",
            autocompletion=complete_config,
        ),
    ] = None,
    data: Annotated[
        str | None, Option(metavar="PATH|URI", help="With --config: the prepared data set.")
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    plot: Annotated[
        Path | None, Option(help="Also draw the sweep into this file: .png, .svg or .pdf.")
    ] = None,
    measure: Annotated[
        bool,
        Option(
            "--measure",
            help="With --device cpu: also run the step on this machine, and print predicted and "
            "measured values.",
        ),
    ] = False,
    repeats: Annotated[
        int, Option(help="With --measure: number of steps; the fastest counts.")
    ] = 10,
    threads: Annotated[
        int,
        Option(help="With --measure: the most threads with which each process computes."),
    ] = 1,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object instead of the table.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY=VALUE]...", help="With --config: changes to it, such as model.dim=64."
        ),
    ] = None,
) -> None:
    """Asks TorchRec's planner how to shard a table, without creating the table.

    It prints how the table is sharded, the memory that a rank needs, and the duration of a step.
    """
    numbers = Numbers(
        dim=dim,
        batch=batch,
        context=context,
        negatives=negatives,
        dense=dense,
        layers=layers,
        accumulate=accumulate,
        recompute=recompute or None,  # None means that the flag was not given
        precision=precision,
        queries=queries,
        sharding=sharding,
        kernel=kernel,
    )
    check_threads(threads)
    # All values are checked before the planner runs, which may take minutes for a sweep.
    rank_counts = read_counts(ranks, "--ranks")
    item_counts: list[int] = []
    if items is not None:
        item_counts = read_counts(items, "--items")
    settings = None
    if config is None:
        _check_without_config(numbers, item_counts, data, overrides, text_tokens)
    else:
        settings = _settings(numbers, config, overrides or [], text_tokens, trust=trust)

    with command.starting():
        from torchrec_priors.planning import measure as measuring
        from torchrec_priors.planning import plot as plots
        from torchrec_priors.planning import show
        from torchrec_priors.planning.fits import check_any_fits, plan_or_explain
        from torchrec_priors.planning.machines import machine_of
        from torchrec_priors.planning.read_request import from_config, from_numbers
        from torchrec_priors.planning.sweep import sweep

    figures: dict[str, str | int | None] = {
        "memory": memory,
        "host_memory": host_memory,
        "memory_bandwidth": memory_bandwidth,
        "host_bandwidth": host_bandwidth,
        "host_link_bandwidth": host_link_bandwidth,
        "node_bandwidth": node_bandwidth,
        "network_bandwidth": network_bandwidth,
        "ranks_per_node": ranks_per_node,
    }
    rest: dict[str, Any] = {
        "ranks": rank_counts[0],
        "machine": machine_of(device, figures),
        "optimizer": optimizer,
        "rows": rows,
        "reserve": reserve,
        "share_of_peak": share_of_peak,
    }
    if settings is None:
        request = from_numbers(numbers, item_counts[0], **rest)
    else:
        prepared = None if data is None else PreparedData(data)
        first = item_counts[0] if item_counts else None
        request = from_config(settings, prepared, first, text_tokens=text_tokens, **rest)
    request.check()
    item_counts = item_counts or [request.items]
    several = len(item_counts) * len(rank_counts) > 1
    if plot is not None:
        if measure or not several:
            raise UserError(
                "--plot draws a sweep: give several --ranks or --items, without --measure"
            )
        plots.check_plot(plot)

    if measure:
        # A mistake is a single line, so it is found before the warning.
        measuring.check_measurable(request, item_counts, rank_counts, repeats)
        warn_if_busy("the figures will be those of a busy machine")
    with stage_bar() as bar:
        if measure:
            cases = measuring.measure(
                request, item_counts, rank_counts, repeats, threads, bar.set_description_str
            )
        elif several:
            points = sweep(request, item_counts, rank_counts, bar.set_description_str)
        else:
            bar.set_description_str(request.describe())
            planned = plan_or_explain(request)

    if measure:
        show_measured = measuring.cases_as_json if as_json else measuring.show_cases
        print(show_measured(cases))
    elif several:
        show_points = show.sweep_as_json if as_json else show.show_sweep
        print(show_points(points))
        # The table of a sweep is printed first, even if nothing fits and the sweep is rejected.
        check_any_fits(points)
        if plot is not None:
            plots.plot(points, plot)
    else:
        show_planned = show.plan_as_json if as_json else show.show_plan
        print(show_planned(planned))


def _check_without_config(
    numbers: Numbers,
    item_counts: list[int],
    data: str | None,
    overrides: list[str] | None,
    text_tokens: int | None,
) -> None:
    """Raises UserError if an option needs a configuration, or if a number is missing or wrong."""
    if data is not None:
        raise UserError("--data needs --config: give both, or leave --data out")
    if overrides:
        raise UserError(f"'{overrides[0]}' changes a configuration: give --config, or leave it out")
    if not item_counts:
        raise UserError("give --items and --dim, or --config")
    if text_tokens is not None:
        raise UserError("--text-tokens is about an item LLM: give --config, or leave it out")
    numbers.check()


def _settings(
    numbers: Numbers,
    config: Path,
    overrides: list[str],
    text_tokens: int | None,
    *,
    trust: bool,
) -> RunConfig:
    """Reads the configuration; raises UserError if an option cannot be combined with it."""
    if numbers.given():
        raise UserError(
            f"{numbers.given()[0]} cannot be combined with --config: change the configuration, "
            "such as by model.dim=64"
        )
    settings = load_config(config, overrides, trust=trust)
    if text_tokens is not None and not settings.items.encoder:
        raise UserError(
            "--text-tokens is about an item LLM, which the configuration lacks: leave it out"
        )
    return settings


def main() -> None:
    command.run(plan, single_process=True)


if __name__ == "__main__":
    main()
