"""The bodies of the Open Inference Protocol, version 2, as far as recommendations need them.

input     BYTES [B] or [B, 1]   user      ids of users
                                history   histories: lists of item ids, as JSON
                                session   what came after the history, as JSON
output    BYTES [B, k]          item_id   ids; "" after the last item of a user
          FP64  [B, k]          score     scores; 0 after the last item
          BYTES [B, k]          head      heads; "" after the last item
          INT32 [B]             count     how many items there are
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from torchrec_priors.service.bodies import MOST_REQUESTS, AskedBody, Body, Count, Entries, Text
from torchrec_priors.service.problem import ProblemError
from torchrec_priors.service.shapes import Shape
from torchrec_priors.serving.request import Answer

InputName = Literal["user", "history", "session"]
Size = Annotated[int, Field(ge=1, le=MOST_REQUESTS)]

_ENTRIES: TypeAdapter[Entries] = TypeAdapter(Entries)


class InferParameters(Body):
    """Parameters of a call."""

    k: Count = Field(default=10, description="Number of items.")
    strict: bool = Field(default=False, description="Whether unknown things are errors.")


class InputTensor(Body):
    """An input tensor."""

    name: InputName
    datatype: Literal["BYTES"]
    shape: Annotated[list[Size], Field(min_length=1, max_length=2)]
    data: Annotated[list[str | list[str]], Field(min_length=1, max_length=MOST_REQUESTS)]
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)


class OutputName(Body):
    """An output tensor that is wanted."""

    name: Literal["item_id", "score", "head", "count"]
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)


class InferBody(Body):
    """A call of the model."""

    id: Text | None = None
    parameters: InferParameters | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=3)]
    outputs: Annotated[list[OutputName], Field(max_length=4)] | None = None


class OutputTensor(Shape):
    """An output tensor, in the order of rows."""

    name: str
    datatype: Literal["BYTES", "FP64", "INT32"]
    shape: list[int]
    data: list[str] | list[int] | list[float]


class InferAnswer(Shape):
    """The answer to a call."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorShape(Shape):
    """What a tensor must look like; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(Shape):
    """What answers."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Shape):
    """The model that answers."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorShape]
    outputs: list[TensorShape]


class ModelReady(Shape):
    """Whether the model answers."""

    name: str
    ready: Literal[True]


class Live(Shape):
    """Whether the server works."""

    live: Literal[True]


class Ready(Shape):
    """Whether the server answers."""

    ready: Literal[True]


def asked_of(body: InferBody) -> list[AskedBody]:
    """Returns the requests of a call.

    Raises:
        ProblemError: the tensors do not fit each other, or hold no JSON (422).
    """
    columns: dict[str, list[str]] = {}
    for tensor in body.inputs:
        if tensor.name in columns:
            raise ProblemError(422, f"inputs: {tensor.name} is given twice: give it once")
        columns[tensor.name] = _values(tensor)
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1:
        raise ProblemError(422, "inputs: they have different numbers of rows: give each the same")
    if set(columns) == {"session"}:
        raise ProblemError(422, "inputs: there is no user and no history: give one of them")

    parameters = body.parameters or InferParameters()
    requests = []
    for row in range(sizes.pop()):
        given = {name: values[row] for name, values in columns.items()}
        requests.append(
            AskedBody.model_construct(
                user=_user(given.get("user")),
                history=_entries("history", given.get("history"), row),
                session=_entries("session", given.get("session"), row) or [],
                groups={},
                levers=None,
                k=parameters.k,
                allow=None,
                deny=None,
                strict=parameters.strict,
                explain=False,
            )
        )
    return requests


def tensors_of(
    answers: list[Answer], k: int, wanted: list[OutputName] | None
) -> list[OutputTensor]:
    """Returns the tensors of some answers, each padded to k items."""
    rows = len(answers)
    names: list[str] = []
    scores: list[float] = []
    heads: list[str] = []
    for answer in answers:
        rest = k - len(answer)
        names += [*(str(item.item_id) for item in answer), *[""] * rest]
        scores += [*(item.score for item in answer), *[0.0] * rest]
        heads += [*(item.head for item in answer), *[""] * rest]
    counts = [len(answer) for answer in answers]
    tensors = [
        OutputTensor(name="item_id", datatype="BYTES", shape=[rows, k], data=names),
        OutputTensor(name="score", datatype="FP64", shape=[rows, k], data=scores),
        OutputTensor(name="head", datatype="BYTES", shape=[rows, k], data=heads),
        OutputTensor(name="count", datatype="INT32", shape=[rows], data=counts),
    ]
    if not wanted:
        return tensors
    chosen = {one.name for one in wanted}
    return [tensor for tensor in tensors if tensor.name in chosen]


def _values(tensor: InputTensor) -> list[str]:
    """Returns the values of a tensor with one value in each row."""
    values: list[str] = []
    for entry in tensor.data:
        values += [entry] if isinstance(entry, str) else entry
    shape = tensor.shape
    if (len(shape) == 2 and shape[1] != 1) or shape[0] != len(values):
        raise ProblemError(
            422,
            f"inputs: {tensor.name} has {len(values)} values and the shape {shape}: "
            f"give the shape [{len(values)}] or [{len(values)}, 1]",
        )
    return values


def _user(text: str | None) -> str | None:
    """Returns the id of a user; None if the row has none."""
    if not text:
        return None
    if len(text) > 1_000 or "\0" in text:
        raise ProblemError(422, "inputs: an id of a user has 1 to 1,000 characters, no null")
    return text


def _entries(name: str, text: str | None, row: int) -> Entries | None:
    """Reads a history; None if the row has none."""
    if not text:
        return None
    try:
        return _ENTRIES.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ProblemError(
            422, f"inputs: row {row} of {name}: {first['msg']}: give a list of item ids as JSON"
        ) from None
