"""``detector-worker mpta schema``: what editors check a ``pipeline.json`` against."""

import typer

from detector_worker.cli.mpta.texts import schema_text

__all__ = ["schema"]


def schema() -> None:
    """Print the JSON Schema of pipeline.json.

    Example: detector-worker mpta schema > pipeline.schema.json
    """
    typer.echo(schema_text(), nl=False)
