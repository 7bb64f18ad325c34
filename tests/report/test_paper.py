"""The paper's tables and figures: filled with what there is, left out and named where it lacks."""

import copy
from dataclasses import replace

import pytest
from made_up import ONE_HEAD, evaluate, train

from torchrec_priors.report import paper
from torchrec_priors.report.paper_figures import paper_figures
from torchrec_priors.report.paper_tables import paper_tables
from torchrec_priors.report.runs import find
from torchrec_priors.report.sections import sections


def _section(folder):
    [section] = sections(find([folder]).results, None)
    return section


def _named(section, name):
    """The same as if it were of another data set."""
    changed = copy.copy(section)
    changed.name = name
    return changed


def _table(section, key):
    return {table.key: table for table in paper_tables(section, [section])[0]}[key]


def _rows(table):
    return [list(line.cells) for line in table.lines]


def test_what_these_runs_fill_and_what_they_lack(section):
    tables, lacking = paper_tables(section, [section])
    assert [table.key for table in tables] == [
        "table-2",
        "table-3",
        "table-6",
        "table-7",
        "table-8",
    ]
    assert [one.title.partition(":")[0] for one in lacking] == ["Table 9"]
    assert all(len(line.cells) == len(table.head) for table in tables for line in table.lines)
    figures, lacking = paper_figures(section)
    assert [figure.key for figure in figures] == ["figure-2", "figure-3", "figure-7"]
    assert [one.title.partition(":")[0] for one in lacking] == ["Figure 4", "Figure 6"]
    assert "model.context" in lacking[0].needs


def test_numbers_are_those_of_the_evaluations(section):
    row = next(row for row in section.rows if row.label == "genre-lt-st-2")
    base = section.reference
    [cells] = [cells for cells in _rows(_table(section, "table-2")) if cells[1] == row.label]
    assert cells[0] == "+Both"
    assert cells[2:] == [
        f"{100 * row.mean(name):.2f}" for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    ]
    table = _rows(_table(section, "table-3"))
    place = next(number for number, cells in enumerate(table) if cells[0] == row.label)
    everyone = row.mean("ndcg@10") / base.mean("ndcg@10") - 1
    newcomers = row.mean("new_interest/ndcg@10") / base.mean("new_interest/ndcg@10") - 1
    boost = newcomers / everyone - 1
    shown = [cells[2].replace("−", "-") for cells in table[place : place + 3]]
    assert shown == [f"{100 * value:+.2f} %" for value in (everyone, newcomers, boost)]
    [cells] = [cells for cells in _rows(_table(section, "table-7")) if cells[0] == "LT/ST_4"]
    lt_st_4 = next(row for row in section.rows if row.label == "lt-st-4")
    eight = [f"{name}@{cutoff}" for name in ("recall", "ndcg") for cutoff in (5, 10, 50, 200)]
    mean = sum(lt_st_4.mean(name) / base.mean(name) - 1 for name in eight) / 8
    assert cells[1] == f"{100 * mean:+.2f} %"


def test_both_fusions_and_all_compositions_stand_in_their_tables(section):
    fusions = [cells[:3] for cells in _rows(_table(section, "table-6")) if cells[0] == "Item"]
    assert fusions == [["Item", "genre", "max"], ["Item", "genre averaged", "mean"]]
    names = [cells[0] for cells in _rows(_table(section, "table-8"))]
    assert names[0] == "No prior"
    assert {"LT/ST_2 + Item (Hier)", "LT/ST_2 + Item (Add)", "LT/ST_1 + Item"} <= set(names)


def test_the_papers_figures_stand_beside_ours_on_its_data_sets_alone(section):
    for table in paper_tables(section, [section])[0]:
        assert all(line.kind != "paper" for line in table.lines)
    named = _named(section, "pixel8m")
    lines = [line.cells for line in _table(named, "table-2").lines if line.kind == "paper"]
    assert [line[0] for line in lines] == [
        "paper, HSTU",
        "paper, +Item",
        "paper, +LT/ST",
        "paper, +Both",
    ]
    assert list(lines[-1][2:]) == ["1.23", "2", "2.12", "2.09"]
    lines = [line.cells for line in _table(named, "table-8").lines if line.kind == "paper"]
    assert ["paper, LT/ST_2 + Item (Hier)", "", "1.499", "1.559", "2.208"] in [
        list(line) for line in lines
    ]
    [note] = [note for note in _table(named, "table-2").notes if "paper" in note]
    assert "561,737" in note
    assert "not comparable" in note, "a made-up log of the same name"
    [note] = [
        note for note in _table(_named(section, "merrec"), "table-2").notes if "paper" in note
    ]
    assert (
        f"Theirs predict the next item, these the next {section.horizon} items: not comparable"
        in note
    )
    of_hllm = " ".join(_table(named, "table-8").notes)
    assert "HLLM, on a data set with 2,220,506 users" in of_hllm


@pytest.mark.parametrize(
    ("table", "rows", "columns"),
    [(2, 7, 4), (3, 5, 8), (6, 9, 6), (7, 5, 3), (8, 7, 3), (9, 10, 3)],
)
def test_the_file_of_the_papers_figures_is_whole(section, table, rows, columns):
    figures = paper.figures(table, _named(section, "pixel8m"))
    assert len(figures) == rows
    assert {len(values) for values in figures.values()} == {columns}


def test_ablations_are_of_runs_that_differ_in_nothing_else(small_data, tmp_path):
    tree = 'priors.tree=["temporal:2", "genre"]'
    for name, change in {
        "full": "loss.gamma=0.99", "g7": "loss.gamma=0.7", "flat": "loss.balance=0.0",
        "out": "negatives.catalogue_share=1.0",
    }.items():  # fmt: skip
        evaluate(train(tmp_path / name, small_data, tree, change))
    evaluate(train(tmp_path / "other", small_data, tree, "loss.gamma=0.5", "model.dim=128"))
    table = _table(_section(tmp_path), "table-9")
    assert [line.cells[:2] for line in table.lines] == [
        ["Full model (γ = 0.99)", "full"],
        ["w/o in-group negative sampling", "out"],
        ["w/o frequency balancing", "flat"],
        ["γ = 0.7", "g7"],
    ]
    names = [
        line.cells[0] for line in _table(_named(_section(tmp_path), "pixel8m"), "table-9").lines
    ]
    assert "paper, w/o in-group negative sampling" in names


def test_contexts_sizes_compositions_and_segments_are_lines_with_costs(small_data, tmp_path):
    for dim in (16, 32):
        for context in (10, 20):
            changes = [f"model.dim={dim}", f"model.context={context}"]
            evaluate(
                train(
                    tmp_path / f"lt-{dim}-{context}",
                    small_data,
                    'priors.tree=["temporal:2"]',
                    *changes,
                )
            )
        for way in ("additive", "hierarchical"):
            changes = [
                f"model.dim={dim}",
                f"priors.composition={way}",
                'priors.tree=["temporal:2", "genre"]',
            ]
            evaluate(train(tmp_path / f"{way}-{dim}", small_data, *changes))
        evaluate(
            train(
                tmp_path / f"plain-{dim}",
                small_data,
                *ONE_HEAD,
                f"model.dim={dim}",
                "model.context=10",
            )
        )
    section = _section(tmp_path)
    figures = {figure.key: figure for figure in paper_figures(section)[0]}
    assert {"figure-4", "figure-6", "figure-7"} <= set(figures)
    [panel] = figures["figure-4"].panels
    assert panel.title == "LT/ST_2"
    assert [list(series.x) for series in panel.series] == [[10, 20], [10, 20]]
    row = next(row for row in section.rows if row.label == "lt-16-20")
    assert panel.series[0].y[1] == row.mean("ndcg@10")
    [panel] = figures["figure-6"].panels
    assert [series.label for series in panel.series] == ["one head", "additive", "hierarchical"]
    [panel] = figures["figure-7"].panels
    assert panel.ticks == ["next item", "2"]
    assert len(panel.series) == 2, "a line for each size"
    for figure in figures.values():
        assert figure.costs is None or {"encoder and score", "training step"} <= set(
            figure.costs.head
        )


def test_rows_that_compete_for_a_place_are_told_apart_or_left_out_and_named(small_data, tmp_path):
    tree = 'priors.tree=["temporal:2"]'
    for context in (10, 20):
        for gamma in (0.9, 0.5):
            changes = [f"loss.gamma={gamma}", f"model.context={context}"]
            evaluate(train(tmp_path / f"g{gamma}-{context}", small_data, tree, *changes))
    evaluate(train(tmp_path / "plain", small_data, *ONE_HEAD, "model.context=10"))
    evaluate(train(tmp_path / "odd", small_data, tree, "loss.gamma=0.1", "model.context=20"))
    section = _section(tmp_path)
    figures = {figure.key: figure for figure in paper_figures(section)[0]}
    [panel] = figures["figure-4"].panels
    mean = {row.label: row.mean("ndcg@10") for row in section.rows}
    for series, gamma in zip(panel.series, ("0.5", "0.9"), strict=True):
        assert series.label.endswith(f", as g{gamma}-10")
        assert list(series.x) == [10, 20]
        assert list(series.y) == [mean[f"g{gamma}-10"], mean[f"g{gamma}-20"]]
    assert "Not drawn" in figures["figure-4"].caption
    assert "“odd”" in figures["figure-4"].caption
    assert "figure-7" not in figures, "five models of two segments"
    [lacking] = [one for one in paper_figures(section)[1] if one.title.startswith("Figure 7")]
    assert "“g0.9-10”" in lacking.needs
    evaluate(
        train(tmp_path / "wide" / "short", small_data, tree, "model.dim=32", "model.context=10")
    )
    longer = ["model.dim=32", "model.context=20", "encoder.dropout=0.4"]
    evaluate(train(tmp_path / "wide" / "long", small_data, tree, *longer))
    [figure] = [
        figure
        for figure in paper_figures(_section(tmp_path / "wide"))[0]
        if figure.key == "figure-4"
    ]
    assert (
        "differ in more than the axis: LT/ST_2, width 32, 2 layers (encoder.dropout)"
        in figure.caption
    )
    table = _rows(_table(section, "table-7"))
    assert [cells[0] for cells in table] == [
        f"LT/ST_2: {label}" for label in mean if label != "plain"
    ]


def test_horizons_of_one_data_set_are_columns_of_table_7(section):
    other = copy.copy(section)
    other.data, other.rows = None, []
    for row in section.rows:
        results = [
            replace(result, metrics=result.metrics | {"horizon": 4}) for result in row.results
        ]
        other.rows.append(replace(row, results=results))
    tables, _ = paper_tables(other, [section, other])
    [table] = [table for table in tables if table.key == "table-7"]
    assert table.head == ["Variant", "E = 4", "E = 8"]
    assert "table-7" not in [table.key for table in paper_tables(section, [section, other])[0]], (
        "once on the page"
    )


def test_groups_of_users_go_from_the_largest_to_the_smallest(section):
    [figure] = [figure for figure in paper_figures(section)[0] if figure.key == "figure-3"]
    [panel] = figure.panels
    metrics = section.rows[0].results[0].metrics
    sizes = [metrics[f"group/age/{group}/users"] for group in panel.ticks]
    assert sizes == sorted(sizes, reverse=True)
    assert [series.label for series in panel.series] == ["lt-st-1", "age"], (
        "before: one head of the same horizon"
    )
