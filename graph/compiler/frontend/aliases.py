"""aliases: outputs of composites stand for outputs of the nodes in them."""

from __future__ import annotations

from ..ir import BROKEN, Arg, Ref, Source
from .names import Names


class Aliases(Names):
    """Holds the outputs of composites, `aliases`: by path and output, what stands under `outputs` of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.aliases: dict[tuple[str, str], Arg] = {}

    def exposed(self) -> dict[Ref, tuple[tuple[str, str], ...]]:
        """For each node output in a composite, the composites that expose it, with the text of a reference to it."""
        found: dict[Ref, tuple[tuple[str, str], ...]] = {}
        named: set[str] = set()
        for path, output in self.aliases:
            name = path.rsplit(".", 1)[-1]
            text = f"{name}.{output}" if path in named else name
            named.add(path)
            source = self.through_aliases(Ref(path, output))
            if isinstance(source, Ref):
                found[source] = (*found.get(source, ()), (path, text))
        return found

    def through_aliases(self, source: Source) -> Source:
        """Follow outputs of composites to the nodes that make the values."""
        seen: list[tuple[str, str]] = []
        while isinstance(source, Ref) and (source.node, source.port) in self.aliases:
            step = (source.node, source.port)
            arg = self.aliases[step]
            if step in seen:
                names = ", ".join(f"`{n}`" for n, _ in seen)
                message = f"the output of {names} is its own input"
                if all(d.message != message for d in self.problems):
                    self.report("cycle", message, arg.span)
                return BROKEN
            seen.append(step)
            source = arg.source
        return source
