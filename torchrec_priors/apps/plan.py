"""Memory, time and cost of sharded tables on machines that one does not have."""

from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm
from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.planning import measure as measuring
from torchrec_priors.planning import plot as plots
from torchrec_priors.planning import show
from torchrec_priors.planning.asked import DEFAULTS, Numbers, from_config, from_numbers
from torchrec_priors.planning.counts import read_counts
from torchrec_priors.planning.fits import check_any_fits, plan_or_explain
from torchrec_priors.planning.machines import machine_of
from torchrec_priors.planning.request import Request
from torchrec_priors.planning.sweep import sweep
from torchrec_priors.prepared.data_set import PreparedData


def plan(
    items: Annotated[
        str | None,
        Option(
            help="Rows of the item table, as 1255665, 1.26M or 10B; several, with commas: a sweep."
        ),
    ] = None,
    dim: Annotated[int | None, Option(help="Width of the rows.")] = None,
    ranks: Annotated[
        str, Option(help="Devices, over all nodes; several, with commas: a sweep.")
    ] = "8",
    device: Annotated[
        str,
        Option(
            help="h200 (141 GB at 4.8 TB/s), h100 (80 GB at 3.35 TB/s), a100 (80 GB at 2.04 TB/s), each with its DGX: "
            "8 a node, NVLink of 450, 450 and 300 GB/s, network of 50, 50 and 25 GB/s a GPU, 256 GB of host memory a "
            "GPU; cuda (TorchRec's defaults: 32 GiB); cpu (assumed: 128 GB at 51 GB/s a rank, 2 a node)."
        ),
    ] = "h200",
    memory: Annotated[
        str | None, Option(help="Of a device, as 141GB or 80GiB. [as published]")
    ] = None,
    host_memory: Annotated[
        str | None, Option(help="Of the host, a GPU's share of it. [as published]")
    ] = None,
    memory_bandwidth: Annotated[
        str | None, Option(help="Of a device's memory, a second, as 4.8TB.")
    ] = None,
    host_bandwidth: Annotated[
        str | None, Option(help="Of the host's memory, a GPU's share, a second.")
    ] = None,
    host_link_bandwidth: Annotated[
        str | None, Option(help="Between a GPU and its host, one way, a second.")
    ] = None,
    node_bandwidth: Annotated[
        str | None, Option(help="Of a rank to others of its node, one way, a second.")
    ] = None,
    network_bandwidth: Annotated[
        str | None, Option(help="Of a rank to other nodes, one way, a second.")
    ] = None,
    ranks_per_node: Annotated[int | None, Option(help="Ranks of a node. [8 GPUs, 2 CPUs]")] = None,
    batch: Annotated[
        int | None, Option(help=f"Windows of a rank and step. [{DEFAULTS.batch}]")
    ] = None,
    context: Annotated[
        int | None,
        Option(
            help=f"Items of a window, those it is trained to predict included. [{DEFAULTS.context}]"
        ),
    ] = None,
    negatives: Annotated[
        int | None,
        Option(help=f"Negatives of a step, over all item sets and ranks. [{DEFAULTS.negatives}]"),
    ] = None,
    dense: Annotated[
        str | None, Option(help="Parameters of the dense model, as 7.5M. [none]")
    ] = None,
    layers: Annotated[
        int | None, Option(help="Of an HSTU encoder, to count activations. [not counted]")
    ] = None,
    accumulate: Annotated[
        int | None, Option(help="With --layers: parts of a rank's windows. [1]")
    ] = None,
    recompute: Annotated[
        bool, Option("--recompute", help="With --layers: layers are computed again in backward.")
    ] = False,
    precision: Annotated[
        str | None, Option(help="With --layers: of the encoder, fp32 or bf16. [fp32]")
    ] = None,
    queries: Annotated[
        int | None,
        Option(help="With --layers: paths of a prior tree that a position has positives of. [1]"),
    ] = None,
    optimizer: Annotated[
        str, Option(help="Of the tables: rowwise-adagrad, sgd, adagrad, adam.")
    ] = "rowwise-adagrad",
    rows: Annotated[str, Option(help="Numbers of a row: fp32 or fp16.")] = "fp32",
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
            help="Share of a device's memory for what is not counted: CUDA, the allocator, copies."
        ),
    ] = 0.15,
    config: Annotated[
        Path | None,
        Option(
            help="TOML file of a run's configuration, in place of --dim, --batch, --context, ..."
        ),
    ] = None,
    data: Annotated[
        str | None, Option(metavar="PATH|URI", help="With --config: the prepared data set.")
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    plot: Annotated[
        Path | None, Option(help="Also draw the sweep there: .png, .svg or .pdf.")
    ] = None,
    measure: Annotated[
        bool,
        Option(
            "--measure",
            help="With --device cpu: also do it here, and print predicted against measured.",
        ),
    ] = False,
    repeats: Annotated[int, Option(help="With --measure: steps; the fastest counts.")] = 10,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object in place of the table.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY=VALUE]...", help="With --config: changes to it, as in model.dim=64."
        ),
    ] = None,
) -> None:
    """Asks TorchRec's planner how a table is sharded, what a rank holds and how long a step takes. Makes no table."""
    numbers = Numbers(
        dim=dim,
        batch=batch,
        context=context,
        negatives=negatives,
        dense=dense,
        layers=layers,
        accumulate=accumulate,
        recompute=recompute or None,
        precision=precision,
        queries=queries,
        sharding=sharding,
        kernel=kernel,
    )
    rank_counts = read_counts(ranks, "--ranks")
    item_counts = None if items is None else read_counts(items, "--items")
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
    request = _request(
        numbers,
        None if item_counts is None else item_counts[0],
        config,
        data,
        overrides,
        trust,
        ranks=rank_counts[0],
        machine=machine_of(device, figures),
        optimizer=optimizer,
        rows=rows,
        reserve=reserve,
    )
    request.check()
    item_counts = item_counts or [request.items]
    several = len(item_counts) * len(rank_counts) > 1
    if plot is not None:
        if measure or not several:
            raise UserError(
                "--plot draws a sweep: give several --ranks or --items, without --measure"
            )
        plots.check_plot(plot)
    with tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None) as bar:
        if measure:
            cases = measuring.measure(
                request, item_counts, rank_counts, repeats, bar.set_description_str
            )
        elif several:
            points = sweep(request, item_counts, rank_counts, bar.set_description_str)
        else:
            bar.set_description_str(request.describe())
            found = plan_or_explain(request)
    if measure:
        print(measuring.cases_as_json(cases) if as_json else measuring.show_cases(cases))
    elif several:
        print(show.sweep_as_json(points) if as_json else show.show_sweep(points))
        check_any_fits(points)
        if plot is not None:
            plots.plot(points, plot)
    else:
        print(show.plan_as_json(found) if as_json else show.show_plan(found))


def _request(
    numbers: Numbers,
    items: int | None,
    config: Path | None,
    data: str | None,
    overrides: list[str] | None,
    trust: bool,
    **rest: Any,
) -> Request:
    if config is None:
        if data is not None:
            raise UserError("--data goes with --config alone: give that, or leave it out")
        if overrides:
            raise UserError(
                f"'{overrides[0]}' changes a configuration: give --config, or leave it out"
            )
        if items is None:
            raise UserError("give --items and --dim, or --config")
        return from_numbers(numbers, items, **rest)
    if numbers.given():
        raise UserError(
            f"{numbers.given()[0]} goes without --config: change that, as in model.dim=64"
        )
    settings = load_config(config, overrides or [], trust=trust)
    return from_config(settings, None if data is None else PreparedData(data), items, **rest)


def main() -> None:
    command.run(plan, alone=True)


if __name__ == "__main__":
    main()
