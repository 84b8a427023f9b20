"""The repository of a model, in diffusers' layout, from the name of its file for ComfyUI."""

from __future__ import annotations

import re
from collections.abc import Iterable

SOURCES: tuple[tuple[str, str, str], ...] = (
    (r"wan_?2_?[._]?2.*ti2v.*5b", "", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
    (r"wan_?2_?[._]?2.*i2v", "", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
    (r"wan_?2_?[._]?2.*t2v", "", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
    (r"wan.*i2v.*720", "", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
    (r"wan.*i2v", "", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    (r"wan.*t2v.*1_3b", "", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    (r"wan.*t2v.*14b", "", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    (r"hunyuan_?video", r"i2v|image_to_video|1_?5|avatar|custom", "hunyuanvideo-community/HunyuanVideo"),
    (r"flux_?1?_?krea", "", "black-forest-labs/FLUX.1-Krea-dev"),
    (r"flux_?1?_?schnell", "", "black-forest-labs/FLUX.1-schnell"),
    (r"flux_?1?_?d(ev)?(_|$)", "", "black-forest-labs/FLUX.1-dev"),
    (r"qwen_?image", r"edit|layered|2512", "Qwen/Qwen-Image"),
    (r"z_?image.*turbo", "", "Tongyi-MAI/Z-Image-Turbo"),
)
"""A pattern of the file's name, a pattern that rules it out, and the repository. The first that fits counts."""

OTHER_TASKS = re.compile(
    r"vace|fun_|_fun|s2v|animate|flf2v|camera|phantom|kontext|fill|redux|inpaint|canny|depth|control"
)
"""Models of these kinds need inputs that no workflow of sgd has."""


def plain_name(file: str) -> str:
    """The name of a file without folders and ending, in small letters, with `_` for every other sign."""
    name = re.split(r"[\\/]", file)[-1].rsplit(".", 1)[0]
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def source_of(file: str) -> str | None:
    """The repository of a model; None if sgd has no workflow for it."""
    name = plain_name(file[:300])
    if OTHER_TASKS.search(name):
        return None
    for pattern, without, source in SOURCES:
        if re.search(pattern, name) and not (without and re.search(without, name)):
            return source
    return None


def sources_of(files: Iterable[str]) -> list[str]:
    """The repositories of several files, each once."""
    return list(dict.fromkeys(source for file in files if (source := source_of(file)) is not None))
