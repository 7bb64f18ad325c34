"""The page: all results of the runs in one file that needs no other file."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from torchrec_priors.common.files import write_whole
from torchrec_priors.report import background, comparison, paper
from torchrec_priors.report.advice import Advice, advice
from torchrec_priors.report.diversity import diversity_figure
from torchrec_priors.report.draw import svg
from torchrec_priors.report.examples import Examples, examples
from torchrec_priors.report.figure import Figure
from torchrec_priors.report.gains import Gains, gains_of
from torchrec_priors.report.group_figures import group_figure
from torchrec_priors.report.page_table import Lacking, Table
from torchrec_priors.report.paper_figures import paper_figures
from torchrec_priors.report.paper_tables import paper_tables
from torchrec_priors.report.sections import Section
from torchrec_priors.report.training_command import training_commands
from torchrec_priors.report.training_curves import curves
from torchrec_priors.report.users import PerUser

log = logging.getLogger(__name__)

FILE = "index.html"
_TEMPLATES = Path(__file__).parent
_NO_EXAMPLES = Lacking(
    "Example users", "the data set, and a model with several heads evaluated on this split"
)


@dataclass
class Drawn:
    """A figure. Each of its panels is an SVG with a table of the numbers in it."""

    figure: Figure
    panels: list[tuple[Markup, Table]]


@dataclass
class Shown:
    """A section in the form that the template reads.

    Attributes:
        key: the section's id in the page.
        commands: train and evaluate the recommended model again.
        diversity: accuracy against diversity.
        tables: the paper's tables; empty for data sets that the paper does not use.
        on_paper: whether the paper uses this data set.
        lacking: the paper's tables and figures that these runs cannot fill, if it uses the data
            set; and other parts of the page that are missing.
        card: a description of the data set.
        differing: the settings in which the models differ.
        shared: the other settings, as lines of `key=value`.
        notes: sentences about what is missing, each with the remedy.
    """

    key: str
    section: Section
    advice: Advice
    commands: list[list[str]]
    diversity: Drawn | None
    models: list[Table]
    groups: list[Table]
    tables: list[Table]
    figures: list[Drawn]
    by_group: Drawn | None
    on_paper: bool
    curves: Drawn | None
    examples: Examples | None
    lacking: list[Lacking]
    card: Table | None
    differing: Table | None
    shared: str
    sharding: list[Table]
    notes: list[str] = field(default_factory=list)


def write_page(
    sections: Sequence[Section], left_out: Sequence[str], out: Path, command: str
) -> Path:
    """Writes `index.html` into a folder.

    Args:
        left_out: the runs that are not shown, each with the reason.
        command: the command that made the page.

    Returns:
        the path of the file.
    """
    shown = []
    for number, section in enumerate(sections):
        log.info("%s: %d models", section.title, len(section.rows))
        shown.append(_show(f"s{number}", section, sections))

    # Names of runs and groups may contain any characters, so they are escaped.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf8"))
    text = environment.get_template("page.html").render(
        sections=shown,
        left_out=left_out,
        command=command,
        style=style,
        script=Markup((_TEMPLATES / "page.js").read_text(encoding="utf8")),
        runs=_count(sections),
    )

    out.mkdir(parents=True, exist_ok=True)
    # Names of folders may not be valid text.
    write_whole(out / FILE, text.encode("utf8", "replace").decode("utf8"))
    return out / FILE


def _show(key: str, section: Section, sections: Sequence[Section]) -> Shown:
    """Collects everything that the page shows of a section."""
    per_user = PerUser.of(section)
    gains: dict[str, Gains] = {}
    models = [comparison.means(section)]
    if per_user:
        gains = gains_of(section, per_user)
        differences = comparison.differences(section, gains, len(per_user.people))
        if differences:
            models.append(differences)
    models.append(comparison.costs(section))

    # The paper's tables mean something only next to the paper's numbers. Its figures, such as
    # accuracy over the length of the context, are of use for any data set.
    on_paper = paper.reports_on(section)
    figures, lacking = paper_figures(section)
    tables: list[Table] = []
    if on_paper:
        tables, lacking_tables = paper_tables(section, sections)
        lacking = [*lacking_tables, *lacking]
    else:
        figures = [replace(figure, title=_without_number(figure.title)) for figure in figures]
        lacking = []

    # The page lists the tables and figures that these runs cannot fill, and the runs they need.
    example_users = examples(section)
    if not example_users:
        lacking.append(_NO_EXAMPLES)

    # All splits of a data set share the curves and the card: the first section shows them.
    trained = None
    card = None
    if section.first:
        trained = curves(section)
        card = background.data_card(section)
    differing, shared = background.configuration(section)
    advised = advice(section, gains)
    return Shown(
        key=key,
        section=section,
        advice=advised,
        commands=training_commands(advised.recommended.results[0]),
        diversity=_draw(f"{key}-scatter", diversity_figure(section, gains)),
        models=models,
        groups=comparison.groups(section, gains),
        tables=tables,
        figures=_draw_all(key, figures),
        by_group=_draw(f"{key}-by-group", group_figure(section, gains)),
        on_paper=on_paper,
        curves=_draw(f"{key}-curves", trained),
        examples=example_users,
        lacking=lacking,
        card=card,
        differing=differing,
        shared=shared,
        sharding=background.sharding(section),
        notes=_notes(section, per_user),
    )


def _without_number(title: str) -> str:
    """Returns the title of a figure without its number in the paper.

    >>> _without_number("Figure 4: context length and model size")
    'Context length and model size'
    """
    words = title.partition(": ")[2]
    return words[:1].upper() + words[1:]


def _notes(section: Section, per_user: PerUser | None) -> list[str]:
    """Returns sentences about what is missing in a section, each with the remedy."""
    notes = []
    if section.missing:
        notes.append(
            f"The data set is not there ({section.missing}): no intervals, examples or card."
        )
    if per_user is None:
        return notes

    for label, reasons in per_user.missing.items():
        lacks = "no intervals"
        if label in per_user.values:
            lacks = "intervals of only its other seeds"
        reason = "; ".join(f"seed {seed}: {why}" for seed, why in reasons.items())
        notes.append(f"“{label}” has {lacks}: {reason}; evaluate it again.")
    return notes


def _draw_all(key: str, figures: Sequence[Figure]) -> list[Drawn]:
    """Draws figures; `key` is a prefix of their ids in the page."""
    drawn = [_draw(f"{key}-{figure.key}", figure) for figure in figures]
    return [figure for figure in drawn if figure is not None]


def _draw(key: str, figure: Figure | None) -> Drawn | None:
    """Draws a figure, if there is one; `key` is the prefix of the panels' ids."""
    if figure is None:
        return None
    panels = []
    for number, panel in enumerate(figure.panels):
        name = f"{key}-{number}"
        panels.append((Markup(svg(panel, name)), panel.table(name)))
    return Drawn(figure, panels)


def _count(sections: Sequence[Section]) -> int:
    """Counts the runs on the page."""
    rows = [row for section in sections for row in section.rows]
    return len({result.run.path for row in rows for result in row.results})
