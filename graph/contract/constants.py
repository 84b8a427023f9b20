"""Constants that every layer needs."""

from __future__ import annotations

DONE, FAILED, WRONG, INTERRUPTED, DOES_NOT_FIT = 0, 1, 2, 3, 4
EXIT_CODES = (
    "exit codes: 0 done; 1 the run failed; 2 the command line or the file is wrong; 3 interrupted; "
    "4 does not fit the device"
)

LARGEST_RECORD = 256 << 20
"""The most bytes of a record that commands read; a run of 100,000 steps writes some tens of megabytes."""
