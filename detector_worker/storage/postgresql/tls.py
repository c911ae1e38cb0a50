"""How connections to PostgreSQL are encrypted, and how the server proves who it is."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.core.settings import SslMode

__all__ = ["TlsConfig"]

_WITHOUT_FILES: Final = frozenset({"disable", "prefer"})


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """libpq's settings of the same names, with files that are always named and never guessed from a home folder.

    ``prefer`` takes TLS where the server offers it and verifies nothing. ``require`` insists on it, ``verify-ca`` also
    on a certificate of ``sslrootcert``, and ``verify-full`` on one for this very host, of ``sslrootcert`` or else of
    the authorities that the system trusts. ``sslcert`` and ``sslkey`` show who we are.
    """

    sslmode: SslMode = "prefer"
    sslrootcert: Path | None = None
    sslcert: Path | None = None
    sslkey: Path | None = None

    def for_host(self, host: str) -> ssl.SSLContext | Literal["prefer", False]:
        """Return what asyncpg takes as ``ssl``, with the files as they are now; a Unix socket needs no TLS.

        Raises:
            ConfigurationError: These settings contradict each other, or a file cannot be used.
        """
        self._check()
        if host.startswith("/") or self.sslmode == "disable":
            return False
        return "prefer" if self.sslmode == "prefer" else self._context()

    def _check(self) -> None:
        mode = f"database.sslmode = {self.sslmode!r}"
        for key, file in self._files().items():
            if self.sslmode in _WITHOUT_FILES:
                raise _error(f"{mode} makes no use of it", key, "Set sslmode to require, verify-ca or verify-full.")
            try:
                file.open("rb").close()
            except OSError as exc:
                raise _error(f"{file} cannot be read: {exc.strerror}", key, "Name a PEM file.") from exc
        if self.sslmode == "require" and self.sslrootcert:
            raise _error(f"{mode} verifies nothing", "sslrootcert", "Set sslmode to verify-ca or verify-full.")
        if self.sslmode == "verify-ca" and not self.sslrootcert:
            mend = "Name the authority's PEM file; with verify-full the system's authorities would do."
            raise _error(f"{mode} needs it", "sslrootcert", mend)
        if self.sslkey and not self.sslcert:
            raise _error("database.sslkey needs its certificate", "sslcert", "Name the certificate's PEM file.")

    def _files(self) -> dict[str, Path]:
        named = {"sslrootcert": self.sslrootcert, "sslcert": self.sslcert, "sslkey": self.sslkey}
        return {key: file for key, file in named.items() if file is not None}

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.sslmode == "verify-full"
        context.verify_mode = ssl.CERT_NONE if self.sslmode == "require" else ssl.CERT_REQUIRED
        try:
            if self.sslrootcert:
                context.load_verify_locations(self.sslrootcert)
            elif self.sslmode == "verify-full":
                context.load_default_certs()
        except ssl.SSLError as exc:
            raise _error(f"{self.sslrootcert} holds no certificate", "sslrootcert", "Name a PEM file.") from exc
        try:
            if self.sslcert:  # without a password of ours OpenSSL would ask for one at the terminal
                context.load_cert_chain(self.sslcert, self.sslkey, password="")
        except ssl.SSLError as exc:
            mend = "Name PEM files that belong together; the key must not be encrypted."
            raise _error(f"It does not go with database.sslkey: {exc.reason or exc}", "sslcert", mend) from exc
        return context


def _error(what: str, key: str, mend: str) -> ConfigurationError:
    return ConfigurationError(what, where=f"database.{key}", mend=mend)
