"""Keys and signatures: Ed25519, in a DSSE envelope and as OpenSSH signs files.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig

Both are written in one way only, and read in no other: a byte that is changed without changing the meaning is found.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from labkit.core.errors import HostError, UsageError
from labkit.core.text import printable
from labkit.io import process
from labkit.io.files import make_directory, write_atomic

NAMESPACE = "labkit-claim"  # of OpenSSH's signatures: one that is made for something else is none of a claim
_KIND = b"ssh-ed25519"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ASK = 20.0  # seconds
_LONGEST = 64 << 10  # bytes of a file with keys
_MAKE = "ssh-keygen -t ed25519 -f FILE makes one"


class WrongSignature(UsageError):
    """It is not what the key signed, or is no signature at all."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """raw: the 32 bytes of an Ed25519 key; comment: what stands behind it in its file."""

    raw: bytes
    comment: str = ""

    @property
    def blob(self) -> bytes:
        return _string(_KIND) + _string(self.raw)

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` has it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """As in a file of public keys."""
        return f"ssh-ed25519 {base64.b64encode(self.blob).decode()} {self.comment}".rstrip()

    def check(self, signature: bytes, message: bytes, what: str) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise WrongSignature(f"{what} is not signed by {self.fingerprint}") from error


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    private: Ed25519PrivateKey
    comment: str = ""

    @property
    def public(self) -> PublicKey:
        form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return PublicKey(self.private.public_key().public_bytes(*form), self.comment)


def load(path: Path) -> Key:
    """A private key from a file, as OpenSSH or PEM has it. UsageError where it is none that can sign."""
    try:
        about = path.stat()
        data = path.read_bytes()[:_LONGEST]
    except OSError as error:
        hint = f"{_MAKE}; without --key labkit makes one of its own" if isinstance(error, FileNotFoundError) else None
        raise UsageError(f"the key {path} cannot be read: {error.strerror}", hint=hint) from error
    if data.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        raise UsageError(f"{path} is a public key", hint="name the private one, without .pub")
    if b"PRIVATE KEY" in data and stat.S_IMODE(about.st_mode) & 0o077:  # of anything else, no advice to close it
        raise UsageError(f"others can read the private key {path}", hint=f"chmod 600 {path}")
    ssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    try:
        read = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
        found = read(data, None)
    except TypeError as error:
        raise UsageError(
            f"the key {path} has a passphrase", hint=f"make one for claims without: {_MAKE} with -N ''"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if "password" in str(error).casefold() or "encrypted" in str(error).casefold():
            raise UsageError(
                f"the key {path} has a passphrase", hint=f"make one for claims without: {_MAKE} with -N ''"
            ) from error
        raise UsageError(f"{path} is no private key of OpenSSH or PEM", hint=_MAKE) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{path} is another kind of key; claims are signed with Ed25519", hint=_MAKE)
    return Key(found)


def own(path: Path) -> tuple[Key, bool]:
    """The key at path, made there where there is none, with its public part beside it as .pub; whether it is new."""
    if path.exists():
        return load(path), False
    make_directory(path.parent, mode=0o700)
    key = Key(Ed25519PrivateKey.generate(), "labkit-claim")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    write_atomic(path.with_name(f"{path.name}.pub"), key.public.line + "\n")
    write_atomic(path, key.private.private_bytes(*form), mode=0o600)
    return key, True


def public_key(path: Path) -> PublicKey:
    """A public key from a file: a line as OpenSSH has it, or PEM. UsageError."""
    try:
        data = path.read_bytes()[:_LONGEST]
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error
    if b"PRIVATE KEY" in data:
        raise UsageError(f"{path} is a private key", hint="name the public one, which ends in .pub")
    comment = ""
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            found = serialization.load_pem_public_key(data)
        else:
            lines = [line.strip() for line in data.splitlines() if line.strip() and not line.strip().startswith(b"#")]
            if len(lines) > 1:
                raise UsageError(
                    f"{path} has {len(lines)} lines, so it is no file with a key",
                    hint="name a file with one public key; a list of signers is --allowed-signers",
                )
            found = serialization.load_ssh_public_key(lines[0] if lines else b"")
            comment = printable(lines[0].decode("utf-8", "replace").partition(" ")[2].partition(" ")[2])
    except (ValueError, UnsupportedAlgorithm, TypeError) as error:
        raise UsageError(f"{path} is no public key of OpenSSH or PEM", hint="it begins with ssh-ed25519") from error
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"{path} is another kind of key; claims are signed with Ed25519")
    return PublicKey(found.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw), comment)


# --- DSSE


def envelope(payload: bytes, kind: str, key: Key) -> bytes:
    """The payload, signed, as JSON."""
    return _envelope(payload, kind, key.public.fingerprint, key.private.sign(_pae(payload, kind)))


def opened(data: bytes, kind: str, key: PublicKey, what: str) -> bytes:
    """The payload of envelope(). WrongSignature, naming what it is, where anything about it is another."""
    try:
        value = json.loads(data)
        payload = base64.b64decode(value["payload"], validate=True)
        signature = base64.b64decode(value["signatures"][0]["sig"], validate=True)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, binascii.Error) as error:
        raise WrongSignature(f"{what} is no envelope as labkit writes it") from error
    key.check(signature, _pae(payload, kind), what)
    if _envelope(payload, kind, key.fingerprint, signature) != data:
        raise WrongSignature(f"{what} is not written as labkit writes it")
    return payload


def _envelope(payload: bytes, kind: str, ident: str, signature: bytes) -> bytes:
    value = {
        "payloadType": kind,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": ident, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _pae(payload: bytes, kind: str) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


# --- OpenSSH


def ssh_signature(message: bytes, key: Key) -> bytes:
    """What `ssh-keygen -Y sign -n labkit-claim` writes."""
    return _armoured(key.public, key.private.sign(_signed(message)))


def signer(data: bytes, message: bytes, what: str) -> PublicKey:
    """The key in ssh_signature(), once it is seen that it signed the message. WrongSignature."""
    wrong = WrongSignature(f"{what} is no signature as labkit writes it")
    try:
        lines = data.decode("ascii").split("\n")
        blob = base64.b64decode("".join(lines[1:-2]), validate=True)
    except (ValueError, binascii.Error) as error:
        raise wrong from error
    start = len(_string(_KIND)) + 4 + len(b"SSHSIG") + 8
    key, signature = PublicKey(blob[start : start + 32]), blob[-64:]
    if len(key.raw) != 32 or len(signature) != 64 or _armoured(key, signature) != data:
        raise wrong
    key.check(signature, _signed(message), what)
    return key


def principal(allowed: Path, signature: bytes, message: bytes) -> str:
    """Whom a file of allowed signers (ssh-keygen(1)) names for the signature; WrongSignature where that is nobody."""
    if not allowed.is_file():
        raise UsageError(f"the list of allowed signers {allowed} is no file")
    if not os.access(allowed, os.R_OK):
        raise UsageError(f"the list of allowed signers {allowed} cannot be read")
    if process.which("ssh-keygen") is None:
        raise HostError(
            "ssh-keygen is not installed on this host", hint="install openssh-client; or give --key FILE.pub"
        )
    with tempfile.TemporaryDirectory(prefix="labkit-verify-") as place:
        file = Path(place) / "signature"
        file.write_bytes(signature)
        words: list[str | Path] = ["-s", file, "-f", allowed.absolute()]
        found = process.run(["ssh-keygen", "-Y", "find-principals", *words], timeout=_ASK, check=False)
        names = found.stdout.split("\n")
        if found.status or not names[0].strip():
            said = printable(found.stderr.strip().partition("\n")[0].strip())[:300]
            raise WrongSignature(f"{allowed} allows nobody with this key" + (f": {said}" if said else ""))
        name = names[0].strip()
        words += ["-I", name, "-n", NAMESPACE]
        done = process.run(["ssh-keygen", "-Y", "verify", *words], timeout=_ASK, stdin=message, check=False)
        if done.status:
            said = printable((done.stderr or done.stdout).strip())[:300]
            raise WrongSignature(f"{allowed} does not allow {printable(name)} to sign this: {said}")
    return printable(name)


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _terms() -> bytes:
    return _string(NAMESPACE.encode()) + _string(b"") + _string(b"sha512")


def _signed(message: bytes) -> bytes:
    return b"SSHSIG" + _terms() + _string(hashlib.sha512(message).digest())


def _armoured(key: PublicKey, signature: bytes) -> bytes:
    blob = b"SSHSIG" + (1).to_bytes(4, "big") + _string(key.blob) + _terms()
    text = base64.b64encode(blob + _string(_string(_KIND) + _string(signature))).decode()
    lines = [text[place : place + 70] for place in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()
