"""exchanges: `--set node.uses=type` gives a node another type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...contract.diagnostics import Diagnostic
from ...contract.node import USES, Input
from ...contract.suggestions import did_you_mean
from ...language.literals import Given


@dataclass(frozen=True)
class Exchange:
    """A node's new type.

    Attributes:
        path: The path of the setting, `node.uses`.
        uses: The name of the new type.
    """

    path: str
    uses: str

    @property
    def text(self) -> str:
        """The setting as on a command line."""
        return f"--set {self.path}={self.uses}"

    def unknown(self, types: Iterable[str]) -> Diagnostic:
        """The problem if there is no such type."""
        help = did_you_mean(self.uses, types) or "`sgd nodes` lists what is installed"
        return Diagnostic("unknown-node-type", f"{self.text}: no node type `{self.uses}`", help=help)

    def missing(self, setting: str, parameter: Input) -> Diagnostic:
        """The problem if the new type requires a parameter that the node does not have."""
        message = f"{self.text}: {self.uses} needs `{parameter.name}`" + (f": {parameter.doc}" if parameter.doc else "")
        is_value = not parameter.is_port or parameter.type.kind == "var"
        help = f"give --set {setting}=… too" if is_value else f"edit the file: `{parameter.name}` takes an edge"
        return Diagnostic("missing-parameter", message.rstrip("."), help=help)

    def drops(self, names: Sequence[str], before: str) -> Diagnostic:
        """The warning about parameters of the file that the new type does not have."""
        listed = ", ".join(f"`{name}`" for name in names)
        message = f"{self.text}: {self.uses} has no {listed}, so what the file writes for {before} is dropped"
        return Diagnostic("unknown-parameter", message, severity="warning")

    def of_file(self, file: str) -> Diagnostic:
        """The problem if the node uses a file."""
        message = f"{self.text}: the node uses {file}, and only the type of a node without a file can be exchanged"
        node = self.path.removesuffix(f".{USES}")
        return Diagnostic("bad-value", message, help=f"paths of nodes in the file begin with `{node}.`")


def exchange_of(path: str, given: Mapping[str, Given]) -> Exchange | None:
    """The new type that `--set` gives to the node at a path; None if it keeps the type of the file."""
    setting = given.get(f"{path}.{USES}")
    if setting is None:
        return None
    return Exchange(f"{path}.{USES}", str(setting.value))
