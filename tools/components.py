"""Writes `components/` from the options of the apps: `make components`.

TorchX reads the source of a component: its signature, with plain types, and its docstring. So the
files must exist. Everything in them is derived from the app's function, except the resources and
the examples below.
"""

import enum
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.models import ArgumentInfo

from torchrec_priors.apps.__main__ import apps

FOLDER = Path(__file__).resolve().parents[1] / "components"
WIDTH = 100  # characters of a line
REPEATED = "Can be repeated."  # an app's help says this if an option takes several values
SEPARATED = "Separate several with commas."  # the help of a component says this instead


@dataclass(frozen=True)
class Resources:
    """The resources that a component requests from a scheduler by default.

    Attributes:
        j: nodes x processes per node; empty for an app that is one process.
        cpu: the number of cores per node.
        gpu: the number of GPUs per node; None for an app that never uses a GPU.
        memory: the memory per node, in MB.
        restarts: the number of times that torchrun may start the processes again; None for an app
            that cannot resume.
    """

    j: str = ""
    cpu: int = 2
    gpu: int | None = 0
    memory: int = 8192
    restarts: int | None = None


RESOURCES = {
    "bench": Resources(memory=16384),
    "content": Resources(j="1x1"),
    "describe": Resources(gpu=None),
    "evaluate": Resources(j="1x2"),
    "experiment": Resources(),
    "export": Resources(j="1x1"),
    "plan": Resources(cpu=1, memory=4096),
    "prepare": Resources(gpu=None, memory=4096),
    "prior": Resources(gpu=None),
    "publish": Resources(),
    "push": Resources(),
    "recommend": Resources(j="1x1"),
    "report": Resources(gpu=None),
    "serve": Resources(j="1x1"),
    "train": Resources(j="1x2", restarts=3),
}
EXAMPLES = {
    "bench": ["--shape merrec"],
    "content": [
        "--data DATA --name NAME --vectors FILE add",
        "--data DATA --name NAME --model DIR encode",
    ],
    "describe": ["DATA"],
    "evaluate": ["--run RUN --split test [key=value ...]"],
    "experiment": ["--data DATA FILE"],
    "export": ["--run RUN --out FOLDER"],
    "plan": ["--items 1B --dim 256 --ranks 64"],
    "prepare": [
        "--dataset movielens --raw RAW --out DATA",
        "--dataset SHOP.toml --out DATA",
    ],
    "prior": ["--data DATA --name NAME graph", "--data DATA --name NAME --from_file FILE item"],
    "publish": ["--run RUN --to FOLDER", "--to FOLDER --version NAME"],
    "push": ["--run RUN --to FOLDER --license NAME"],
    "recommend": ["--run RUN --user ID", "-j 1x4 --run RUN --users all --out PARQUET"],
    "report": ["--runs RUNS --out FOLDER [DIR ...]"],
    "serve": ["--run RUN --host 0.0.0.0 --token_file FILE"],
    "train": ["--config FILE --data DATA --run RUN [KEY=X ...]"],
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a component.

    Attributes:
        name: the name; it begins with a star if it takes the positional arguments.
        annotation: the type, as source code.
        default: the default value, as source code; None if there is none.
        help: the description.
    """

    name: str
    annotation: str
    default: str | None
    help: str

    def in_signature(self) -> str:
        """Returns the parameter as it is written in a signature."""
        default = "" if self.default is None else f" = {self.default}"
        return f"{self.name}: {self.annotation}{default}"


def text_of(app: str) -> str:
    """Returns the content of the file of an app's component."""
    positional, options = _parameters_of_app(app)
    resources = list(_parameters_of_resources(RESOURCES[app]))
    parameters = [*positional, *options, *resources]
    passed_on = [] if RESOURCES[app].j else ['j="1x1"']

    examples = [
        f"torchx run -s local_cwd components/{app}.py:{app} {line}" for line in EXAMPLES[app]
    ]
    lines = [
        f'"""TorchX component of the app `{app}`, written by `make components`: do not edit.',
        "",
        *examples,
        '"""',
        "",
        "from typing import Dict, List, Optional",
        "",
        "import torchx",
        "import torchx.specs as specs",
        "",
        "from torchrec_priors.launch.application import application",
        "",
        "",
        f"def {app}(",
        *(f"    {parameter.in_signature()}," for parameter in parameters),
        ") -> specs.AppDef:",
        *_docstring(app, parameters),
        *_options(options),
        "    return application(",
        f'        "{app}",',
        "        options," if options else "        {},",
        *(f"        {parameter.name}," for parameter in positional),
        *(f"        {argument}," for argument in passed_on),
        *(f"        {resource.name}={resource.name}," for resource in resources),
        "    )",
    ]
    # A command must be on one line to be copied, so examples are not wrapped.
    too_long = [line for line in lines if len(line) > WIDTH]
    assert not too_long, too_long
    return "\n".join(lines) + "\n"


def _options(options: list[Parameter]) -> list[str]:
    """Returns the lines that collect the options, if there are any."""
    if not options:
        return []
    return [
        "    options = dict(",
        *(f"        {option.name}={option.name}," for option in options),
        "    )",
        "",
    ]


def _parameters_of_app(app: str) -> tuple[list[Parameter], list[Parameter]]:
    """Returns the positional parameter, if there is one, and the options."""
    function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function).parameters
    # A TorchX option has the name of the parameter, with underscores, and no other names.
    names = {"as_json": "json", **{name: name for name in signature if name != "as_json"}}

    positional = []
    options = []
    for name, parameter in signature.items():
        kind, info = typing.get_args(hints[name])
        help_text = _component_help(info.help, kind, names)
        if isinstance(info, ArgumentInfo):
            positional.append(Parameter(f"*{name}", "str", None, help_text))
            continue

        # A placeholder like HEAD=X shows how to write the value. Components have no placeholders,
        # so it is put into the description.
        if info.metavar and "=" in info.metavar:
            help_text = f"{info.metavar}: {help_text}"
        default = _default(parameter.default)
        options.append(Parameter(names[name], _annotation(kind), default, help_text))
    return positional, options


def _parameters_of_resources(resources: Resources) -> Iterator[Parameter]:
    """Yields the parameters by which a user requests resources."""
    per_node = " per node" if resources.j else ""
    if resources.j:
        help_text = "[min nodes:]nodes x processes per node."
        yield Parameter("j", "str", f'"{resources.j}"', help_text)

    yield Parameter("image", "str", "torchx.IMAGE", "Image to run in, if the scheduler uses one.")
    yield Parameter("h", "Optional[str]", "None", "A registered named resource.")
    yield Parameter("cpu", "int", str(resources.cpu), f"Cores{per_node}.")
    if resources.gpu is not None:
        yield Parameter("gpu", "int", str(resources.gpu), f"GPUs{per_node}.")
    yield Parameter("memMB", "int", str(resources.memory), f"Memory{per_node}, in MB.")

    help_text = "Number of times that the scheduler may start it again."
    yield Parameter("max_retries", "int", "0", help_text)
    if resources.restarts is not None:
        help_text = (
            "Number of times that torchrun may start all processes again, on the same machines; "
            "each time they resume the run."
        )
        yield Parameter("max_restarts", "int", str(resources.restarts), help_text)

    yield Parameter("env", "Optional[Dict[str, str]]", "None", "Environment variables, as A=1,B=2.")
    help_text = "Mounts of the container, as type=volume,src=CLAIM,dst=/shared."
    yield Parameter("mounts", "Optional[List[str]]", "None", help_text)


def _annotation(kind: object) -> str:
    """Returns an option's type in the form for TorchX, for example `Optional[List[str]]`."""
    if isinstance(kind, types.UnionType):
        (inner,) = (part for part in typing.get_args(kind) if part is not type(None))
        return f"Optional[{_annotation(inner)}]"
    if typing.get_origin(kind) is list:
        (element,) = typing.get_args(kind)
        return f"List[{_annotation(element)}]"
    # TorchX supports no other types. Paths and enumerations are strings on the command line.
    if kind in (int, float, bool):
        return kind.__name__
    return "str"


def _default(default: object) -> str | None:
    """Returns a default value as source code, or None if there is none."""
    if default is inspect.Parameter.empty:
        return None
    if isinstance(default, enum.Enum):
        default = default.value
    if isinstance(default, str):
        return f'"{default}"'
    return repr(default)


def _component_help(text: str, kind: object, names: dict[str, str]) -> str:
    """Returns the help of an app's option in the form for a component."""
    # Options of a component have no dashes: the app's `--test-from` is `--test_from`.
    for name in names.values():
        option = re.escape(name.replace("_", "-"))
        text = re.sub(rf"--{option}(?![\w-])", f"--{name}", text)

    inner = [part for part in (kind, *typing.get_args(kind)) if inspect.isclass(part)]
    choices = [part for part in inner if issubclass(part, enum.Enum)]
    if choices:
        listed = ", ".join(member.value for member in choices[0])
        text, bracket, default = text.partition(" [")
        text = f"{text} One of: {listed}.{bracket}{default}"
    if any(typing.get_origin(part) is list for part in (kind, *typing.get_args(kind))):
        text = text.replace(REPEATED, SEPARATED)
    # TorchX's argparse would read a single % as the beginning of a format.
    return text.replace("%", "%%")


def _docstring(app: str, parameters: list[Parameter]) -> Iterator[str]:
    """Yields the lines of a component's docstring."""
    function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
    first, *paragraphs = inspect.cleandoc(function.__doc__).split("\n\n")
    if not RESOURCES[app].j:
        paragraphs.append("The scheduler starts it as one process.")

    yield f'    """{first}'
    for paragraph in paragraphs:
        yield ""
        yield from _wrapped(paragraph, indent=4)
    yield ""
    yield "    Args:"
    for parameter in parameters:
        # TorchX's parser only joins the lines of a description if all but the first are indented.
        text = f"{parameter.name.lstrip('*')}: {parameter.help}"
        yield from _wrapped(text, indent=8, further=12)
    yield '    """'


def _wrapped(text: str, indent: int, further: int | None = None) -> list[str]:
    """Wraps a text; lines after the first are indented by `further` if that is given."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if further is None else further),
        break_long_words=False,
        break_on_hyphens=False,
    )


def main() -> None:
    for app in apps():
        (FOLDER / f"{app}.py").write_text(text_of(app), encoding="utf8")


if __name__ == "__main__":
    main()
