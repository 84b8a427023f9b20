"""The parts of a workflow file: pydantic models whose leaves are `Value`s with their places in the file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ..contract.source_spans import Span
from ..contract.yaml_reader import Value


def _must_be(test: Any, expected: str) -> AfterValidator:
    def check(value: Value) -> Value:
        if not test(value.data):
            raise PydanticCustomError("bad-value", "must be {expected}", {"expected": expected})
        return value

    return AfterValidator(check)


def _number(data: Any) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)


Text = Annotated[Value, _must_be(lambda d: isinstance(d, str), "text")]
Number = Annotated[Value, _must_be(_number, "a number")]
Mapping = Annotated[Value, _must_be(lambda d: isinstance(d, dict), "a mapping of names to values")]
Listing = Annotated[Value, _must_be(lambda d: isinstance(d, list) and d, "a list that is not empty")]
Anything = Value


class Part(BaseModel):
    """Base of the models: unknown keys are errors, leaves are `Value`s."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)

    span: Span = Field(exclude=True)


class InputPart(Part):
    """An entry of `inputs`."""

    type: Text | None = None
    enum: Listing | None = None
    default: Anything | None = None
    min: Number | None = None
    max: Number | None = None
    about: Text | None = None


class NodePart(Part):
    """An entry of `nodes` or of a loop's `body` with `uses`: a node type or another file."""

    uses: Text
    with_: Mapping | None = Field(default=None, alias="with")
    about: Text | None = None


class LoopPart(Part):
    """An entry with `for`: a loop that carries state, or maps."""

    for_: Mapping = Field(alias="for")
    carry: Mapping | None = None
    body: Mapping
    yield_: Mapping | None = Field(default=None, alias="yield")
    about: Text | None = None


class ExpectPart(Part):
    """The entry `expect`: limits that a run of the file should keep."""

    seconds: Number | None = None
    peak_gib: Number | None = None
    psnr: Mapping | None = None


class PsnrPart(Part):
    """The entry `psnr` of `expect`: how like a reference an output should be."""

    min: Number
    output: Text
    reference: Text


class RunPart(Part):
    """The entry `run`: how a run of the file goes, as far as the command line says nothing."""

    parallel: Mapping | None = None


class FilePart(Part):
    """The top level of a file."""

    sgd: Value
    name: Text | None = None
    about: Text | None = None
    inputs: Mapping | None = None
    nodes: Mapping
    outputs: Mapping | None = None
    expect: Mapping | None = None
    run: Mapping | None = None
