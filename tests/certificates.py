"""Certificates for one run: a CA, the server's, and clients' of the CA and of their own."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Authority = tuple[x509.Name, ec.EllipticCurvePrivateKey]


def write_certificates(folder: Path) -> None:
    """Write `name`.pem and `name`.key of each into `folder`.

    `tls-client` and `another-client` are of the CA; `self-signed` and `self-signed-too` vouch for themselves,
    and so does `pretender`, who claims to be `tls-client`.
    """
    authority = _write(folder, "ca", is_ca=True)
    for name in ("server", "tls-client", "another-client"):
        _write(folder, name, authority)
    for name in ("self-signed", "self-signed-too"):
        _write(folder, name)
    _write(folder, "pretender", subject="tls-client")


def _write(
    folder: Path,
    name: str,
    authority: Authority | None = None,
    *,
    subject: str | None = None,
    is_ca: bool = False,
) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or name)])
    issuer, signer = authority or (own, key)
    certificate = _builder(own, issuer, key.public_key(), signer.public_key(), is_ca=is_ca)
    pem = certificate.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)
    (folder / f"{name}.pem").write_bytes(pem)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.key").write_bytes(plain)
    return own, key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    *,
    is_ca: bool,
) -> x509.CertificateBuilder:
    """Say what strict verifiers (Python 3.13's) want to know of a certificate."""
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        .add_extension(loopback, critical=False)
    )
