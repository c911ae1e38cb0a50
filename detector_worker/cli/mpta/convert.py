"""``detector-worker mpta convert``: a model file in a form that archives hold."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from detector_worker.app import load_configuration
from detector_worker.cli.mpta.loading import exit_2_if_broken, scratch_folder, writing
from detector_worker.core.settings import MIB
from detector_worker.models.runtimes.confined_child import TrialLimits
from detector_worker.models.runtimes.pt_conversion import convert_model, convert_pt

__all__ = ["convert"]

_SUFFIXES: Final = {"onnx": ".onnx", "openvino": ".xml"}


def convert(
    model: Annotated[Path, typer.Argument(help="A .pt or .onnx file.", exists=True, dir_okay=False)],
    output: Annotated[Path | None, typer.Option(help="Default: beside it, with another suffix.")] = None,
    to: Annotated[
        Literal["onnx", "openvino"] | None, typer.Option(help="Default: .pt to onnx, .onnx to openvino.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="A .pt runs code when it is loaded: I trust its maker.")
    ] = False,
) -> None:
    """Convert a model: .pt to ONNX (extra `ultralytics`), either to OpenVINO IR. Nothing is overwritten.

    Example: detector-worker mpta convert cars.pt --allow-pickle
    """
    is_pickle = model.suffix == ".pt"
    wanted = to or ("onnx" if is_pickle else "openvino")
    target = output or model.with_suffix(_SUFFIXES[wanted])
    if model.suffix not in {".pt", ".onnx"} or (wanted == "onnx" and not is_pickle):
        raise typer.BadParameter(f"a {model.suffix or 'plain'} file is not converted to {wanted}")
    if target.suffix != _SUFFIXES[wanted]:
        raise typer.BadParameter(f"{target.name}: files of that kind end in {_SUFFIXES[wanted]}")
    if any(path.exists() for path in {target, target.with_suffix(".bin") if wanted == "openvino" else target}):
        raise typer.BadParameter(f"{target} is there already; name another file with --output")
    if is_pickle and not allow_pickle:
        raise typer.BadParameter("a .pt file runs code when it is loaded; if you trust its maker, add --allow-pickle")
    with exit_2_if_broken(), writing(target), scratch_folder() as scratch:
        onnx = model
        if is_pickle:
            settings = load_configuration().models
            limits = TrialLimits(settings.trial_memory_mb * MIB, settings.trial_seconds)
            onnx = convert_pt(model, target if wanted == "onnx" else scratch / f"{model.stem}.onnx", limits=limits)
        if wanted == "openvino":
            convert_model(onnx, target)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
