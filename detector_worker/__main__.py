"""``python -m detector_worker`` is ``detector-worker``."""

from detector_worker.cli import main

if __name__ == "__main__":
    main()
