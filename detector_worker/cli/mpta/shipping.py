"""``detector-worker mpta pack``, ``sign`` and ``verify``: from a folder to an archive that others can trust."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from detector_worker.cli.mpta.description import shown
from detector_worker.cli.mpta.loading import exit_2_if_broken, new_loader
from detector_worker.cli.mpta.validate import Verdict, judge, say
from detector_worker.core.exceptions import ConfigurationError, ModelLoadError
from detector_worker.models.archives import signatures
from detector_worker.models.archives.packing import pack_archive

__all__ = ["pack", "say_left_out", "sign", "verify"]

_Archive = Annotated[Path, typer.Argument(help="The archive.", exists=True, dir_okay=False)]
_MAX_TOLD: Final = 10


def pack(
    folder: Annotated[Path, typer.Argument(help="With pipeline.json and the models.", exists=True, file_okay=False)],
    output: Annotated[Path | None, typer.Option(help="Default: the folder's name, .mpta, beside it.")] = None,
    key: Annotated[Path | None, typer.Option("--sign", help="Private key to sign with.", exists=True)] = None,
) -> None:
    """Check a folder as `validate` does, and make an archive of it: the same files always give the same bytes.

    Only pipeline.json, its schema, a README, models and samples are packed; what is left out is told.

    Example: detector-worker mpta pack gate --output gate.mpta --sign site.key
    """
    folder = folder.resolve()
    target = output or folder.with_name(f"{folder.name}.mpta")
    verdict = asyncio.run(_judge(folder))
    say(verdict)
    if not verdict.is_valid:
        raise typer.Exit(2)
    with exit_2_if_broken(ConfigurationError):
        made = pack_archive(folder, target)
        say_left_out(made.left_out)
        typer.echo(f"{target}: sha256 {made.sha256}")
        if key is not None:
            typer.echo(f"{signatures.sign(target, key)}: signed by {signatures.public_key_text(key)}")


def say_left_out(names: Sequence[str]) -> None:
    """Tell on standard error what was not packed, the first of many."""
    if names:
        more = f", … ({len(names)} in all)" if len(names) > _MAX_TOLD else ""
        typer.echo(f"left out: {', '.join(shown(name) for name in names[:_MAX_TOLD])}{more}", err=True)


def sign(
    archive: _Archive,
    key: Annotated[Path, typer.Option(help="Ed25519 private key in PEM form.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key first; none is overwritten.")] = False,
) -> None:
    """Sign an archive: its signature is put beside it, and the public key for pipelines.trusted_keys is printed.

    Example: detector-worker mpta sign gate.mpta --key site.key --new-key
    """
    with exit_2_if_broken(ConfigurationError):
        if new_key:
            signatures.new_private_key(key)
        typer.echo(f"{signatures.sign(archive, key)}: signed by {signatures.public_key_text(key)}")


def verify(
    archive: _Archive,
    trust: Annotated[list[str], typer.Option(help="A public key, base64, as `sign` prints it; may be repeated.")],
) -> None:
    """Check the signature that lies beside an archive.

    Example: detector-worker mpta verify gate.mpta --trust mcfQnJ9V3pmuXvXbQe7NcUkzKi3xqVxY0z8xT1oD3kE=
    """
    for key in trust:
        if not _is_public_key(key):
            raise typer.BadParameter(f"{key[:60]!r} is no public key: base64 of 32 bytes is wanted")
    with exit_2_if_broken():
        signer = signatures.verify(archive, _signature(archive), trust, where=f"archive {archive.name!r}")
        typer.echo(f"{archive.name}: signed by {signer}")


async def _judge(folder: Path) -> Verdict:
    with new_loader(is_ours=True) as loader:
        return await judge(loader, folder)


def _signature(archive: Path) -> bytes:
    path = signatures.signature_path(archive)
    try:
        return signatures.read_regular(path, signatures.MAX_SIGNATURE_BYTES)
    except FileNotFoundError as exc:
        what, mend = f"There is no signature {path.name!r} beside it", "Sign it with: detector-worker mpta sign."
        raise ModelLoadError(what, where=f"archive {archive.name!r}", mend=mend) from exc
    except OSError as exc:
        what, mend = f"The signature cannot be read: {exc.strerror or exc}", "Sign the archive again."
        raise ModelLoadError(what, where=f"archive {archive.name!r}", mend=mend) from exc


def _is_public_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False
