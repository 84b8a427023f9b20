"""The part of the run that nodes see which concerns the recipe: the files that a result depends on."""

from __future__ import annotations

from pathlib import Path

INPUT_FILES = "input_files"
"""The role of a file that a `path` parameter names."""


class RecipeRun:
    """The base class of `Run` for recipes. Outside of a run, nothing is noted and no recipe is written."""

    def used_file(
        self,
        path: Path,
        role: str = INPUT_FILES,
        *,
        source: str | None = None,
        name: str | None = None,
        sha256: str | None = None,
    ) -> None:
        """Note that the result depends on a file. Its bytes are hashed in another thread.

        The executor notes the files that `path` parameters name. A node notes every other file that it reads, before
        or after it reads it. While planning, nothing is noted.

        Args:
            path: The file.
            role: The recipe's key for files of this kind.
            source: The source that the file belongs to, as people name it; without folders of this machine.
            name: The name of the file in the source; by default its file name.
            sha256: SHA-256 of all its bytes in hexadecimal, if it is known. The file is not read then.
        """

    def recipe(self) -> str | None:
        """The recipe of the run up to now, as one line of JSON in ASCII, for a node to write into its file.

        Waits until every file that was noted is hashed. None if the file shall have no recipe.
        """
        return None
