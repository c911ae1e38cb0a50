"""Models that one test's worker has seen to be harmless need not be tried again by the next one's."""

from pathlib import Path

__all__ = ["share_trials", "use_folder"]

_shared: list[Path] = []


def use_folder(folder: Path) -> None:
    """Keep what was tried there, for all processes of this run of tests."""
    folder.mkdir(exist_ok=True)
    _shared[:] = [folder]


def share_trials(data_dir: Path) -> Path:
    """Let a worker's data folder know what was tried before; returns the folder."""
    own = data_dir / "models" / "tried"
    own.parent.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.symlink_to(_shared[0], target_is_directory=True)
    return data_dir
