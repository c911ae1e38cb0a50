"""Certificates, and the authority that they come from."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority"]


class Authority:
    """Signs certificates for an hour; what it writes lies in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name, self._key = folder, name, ec.generate_private_key(ec.SECP256R1())
        self.certificate, _ = self._write(name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    def issue(self, host: str) -> tuple[Path, Path]:
        """Return certificate and key of a new holder."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(f"{self._name}-{host}", key, x509.SubjectAlternativeName([x509.DNSName(host)]))

    def server_context(self, host: str, *, wants_clients: bool = False) -> ssl.SSLContext:
        """Return that of a server of this name; where it wants clients, these need a certificate from here, too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(host))
        if wants_clients:
            context.load_verify_locations(self.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, what: x509.ExtensionType) -> tuple[Path, Path]:
        subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, self._name))
        now, pem = datetime.now(UTC), serialization.Encoding.PEM
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(hours=1))
        certificate, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        signed = builder.add_extension(what, critical=False).sign(self._key, hashes.SHA256())
        certificate.write_bytes(signed.public_bytes(pem))
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(pem, form, plain))
        return certificate, key_file
