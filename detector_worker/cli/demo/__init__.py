"""The demo: a showcase of the whole worker, and a test of it."""

from detector_worker.cli.demo.command import demo

__all__ = ["demo"]
