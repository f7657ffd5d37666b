"""Files that a killed program may leave behind: the old one or the new one, never half of one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write `state` beside `file`, bring it to the disk, and rename it into place."""
    beside = file.with_suffix(".part")
    with open(beside, "wb") as out:
        torch.save(dict(state), out)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)
