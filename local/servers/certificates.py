"""The certificate authority of the embedded platform, and the certificates it signs.

A certificate that is kept lies in one file together with its key, so that both are replaced in one step.
"""

import contextlib
import datetime
import fcntl
import functools
import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local import store
from local.errors import LocalError
from local.paths import DATA

_HOME = DATA / "certificates"
_YEAR = 365 * 24 * 3600
_RENEW_BEFORE = datetime.timedelta(days=30)


CA_FILE = _HOME / "ca.crt"
"""The authority's certificate; there once anything was asked of this module."""


def ca_certificate() -> str:
    """Return the authority's certificate, PEM."""
    return _authority()[0].public_bytes(Encoding.PEM).decode()


def issue(
    common_name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = (), ttl_seconds: int = _YEAR
) -> tuple[str, str]:
    """Sign a new certificate; returns it and its key, PEM.

    `hosts` (names or addresses) make it a server's as well as a client's; `groups` are its organizations.
    """
    certificate, ca_key = _authority()
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(common_name, groups))
        .issuer_name(certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(min(now + datetime.timedelta(seconds=ttl_seconds), certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_name, hosts))), critical=False)
    signed = builder.sign(ca_key, hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode(), _pem(key)


def path(name: str) -> Path:
    """Return where `keep` puts the certificate `name`, together with its key."""
    return _HOME / f"{name}.pem"


def keep(name: str, common_name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> None:
    """Have a certificate and its key on disk; they are made anew a month before they end."""
    with _lock(name):
        if not _serves(path(name), _subject(common_name, groups), hosts):
            store.write_text(path(name), "".join(issue(common_name, groups=groups, hosts=hosts)))


def key_path(name: str) -> Path:
    """Return where `keep_key` puts the key `name`."""
    return _HOME / f"{name}.key"


def keep_key(name: str) -> None:
    """Have an RSA key on disk that is made once, such as the one that signs service-account tokens."""
    with _lock(name):
        if not key_path(name).exists():
            store.write_text(
                key_path(name), _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
            )


@functools.cache
def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Read the authority; the first call ever makes it."""
    key = _HOME / "ca.key"
    with _lock("ca"):
        if not CA_FILE.exists():  # written last
            _make_authority(key)
        private = load_pem_private_key(key.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(CA_FILE.read_bytes())
    if (
        not isinstance(private, ec.EllipticCurvePrivateKey)
        or private.public_key() != certificate.public_key()
    ):
        raise LocalError(
            f"{key} does not belong to {CA_FILE}, so no certificate is signed and the platform is not up; "
            f"`make down`, remove {_HOME} and run `make up` again."
        )
    return certificate, private


def _make_authority(key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent-platform local authority")])
    now = datetime.datetime.now(datetime.UTC)
    usage = {
        name: name in ("digital_signature", "key_cert_sign", "crl_sign")
        for name in (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        )
    }
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(seconds=10 * _YEAR))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    store.write_text(key, _pem(private))
    store.write_text(CA_FILE, signed.public_bytes(Encoding.PEM).decode())


def _serves(file: Path, subject: x509.Name, hosts: Sequence[str]) -> bool:
    """Tell whether a kept certificate is ours, lasts and names this subject and these hosts."""
    if not file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    try:
        certificate.verify_directly_issued_by(_authority()[0])
    except (InvalidSignature, ValueError):
        return False
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    same = certificate.subject == subject and set(names) == set(map(_name, hosts))
    return same and left > _RENEW_BEFORE


def _subject(common_name: str, groups: Sequence[str]) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    with (store.private_folder(_HOME) / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
