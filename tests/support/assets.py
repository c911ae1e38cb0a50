"""Where the real models and footage lie; they are no part of the project."""

import os
from pathlib import Path

import pytest

_BESIDE_THE_PROJECT = Path(__file__).parents[2].parent / "shared" / "assets"


def assets_dir() -> Path:
    """Return the folder of real assets, or skip the test and say what is missing."""
    folder = Path(os.environ.get("DETECTOR_WORKER_ASSETS", _BESIDE_THE_PROJECT))
    if not folder.is_dir():
        pytest.skip(f"needs the real assets: no folder {folder} (set DETECTOR_WORKER_ASSETS)")
    return folder
