"""Keyed pseudonyms without state: the same input and key give the same label on every machine.

HMAC-SHA256 with a 256-bit project key and a purpose word for each use, as docs/architecture.md
describes. UIDs become ``2.25.<128-bit integer>`` (PS3.5 Annex B.2).
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

from efface.errors import EffaceError


@dataclass(frozen=True)
class Key:
    """The project's secret. ``repr`` shows the fingerprint, never the secret."""

    secret: bytes

    def digest(self, purpose: str, *parts: str) -> bytes:
        """HMAC of the parts, 32 bytes. A length before each part separates it from the next.

        Parts may contain surrogates, which represent the bytes of file names that are not UTF-8.
        """
        encoded = [p.encode(errors="surrogatepass") for p in (purpose, *parts)]
        message = b"".join(len(b).to_bytes(4, "big") + b for b in encoded)
        return hmac.new(self.secret, message, sha256).digest()

    def label(self, purpose: str, *parts: str) -> str:
        """Ten characters a-z and 2-7 (50 bits), valid as a BIDS label."""
        import base64

        return base64.b32encode(self.digest(purpose, *parts)).decode().lower()[:10]

    def uid(self, original: str) -> str:
        """The UID that replaces ``original`` everywhere."""
        return f"2.25.{int.from_bytes(self.digest('uid', original)[:16], 'big')}"

    def weeks(self, subject: str) -> int:
        """Weeks, 1 to 520, by which the dates of this subject are shifted into the past."""
        return 1 + int.from_bytes(self.digest("date", subject)[:8], "big") % 520

    def seed(self, *parts: str) -> int:
        """A 128-bit seed for a random generator."""
        return int.from_bytes(self.digest("seed", *parts)[:16], "big")

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that identify the key without revealing it."""
        return self.digest("fingerprint").hex()[:8]

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"


def new_key(path: Path) -> Key:
    """Create a key file, mode 0600.

    Raises :class:`EffaceError` if the file exists or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as e:
        raise EffaceError(
            f"{path}: the file exists; efface never overwrites a key, choose another name"
        ) from e
    except OSError as e:
        raise EffaceError(f"{path}: the key cannot be written ({e.strerror})") from e
    with os.fdopen(fd, "w") as f:
        f.write(f"{secrets.token_hex(32)}\n{_CREATED}{datetime.now(UTC):%Y-%m-%d}\n")
        f.flush()
        os.fsync(fd)
    return read_key(path)


_CREATED = "# created "


def read_key(path: Path) -> Key:
    """Read a key file.

    Raises :class:`EffaceError` if it is missing, readable by others or not 64 hex digits.
    """
    return _read(path)[0]


def created(path: Path) -> date:
    """Day (UTC) on which a key was created, from its file or from the file's modification time.

    Raises the errors of :func:`read_key`.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Key, date]:
    try:
        with path.open("rb") as f:
            about = os.fstat(f.fileno())
            # a limit, because the user may name a large image by mistake
            text = f.read(4096).decode("ascii", errors="replace")
    except OSError as e:
        raise EffaceError(f"{path}: the key cannot be read ({e.strerror})") from e
    if about.st_mode & 0o077:
        raise EffaceError(f"{path}: other users can read this key; run: chmod 600 {path}")
    lines = text.split("\n")
    secret = lines[0].strip()
    if not re.fullmatch(r"[0-9a-fA-F]{64}", secret):
        raise EffaceError(f"{path}: not an efface key (64 hexadecimal digits)")
    day = datetime.fromtimestamp(about.st_mtime, UTC).date()
    for line in lines[1:]:
        if line.startswith(_CREATED):
            try:
                day = date.fromisoformat(line.removeprefix(_CREATED).strip())
            except ValueError as e:
                raise EffaceError(f"{path}: the line '{_CREATED.strip()}' has no valid date") from e
    return Key(bytes.fromhex(secret)), day


def rotate_key(path: Path) -> tuple[Key, Key, Path]:
    """Replace a key by a new one and keep the old one beside it.

    Returns the new key, the old key and the path of the old key. ``path`` always holds a key, even
    if the process is interrupted. Raises the errors of :func:`read_key` and :func:`new_key`.
    """
    old = read_key(path)
    kept = path.with_name(f"{path.name}.{old.fingerprint}.old")
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    new = new_key(fresh)
    try:
        os.link(path, kept)
        fresh.replace(path)
    except FileExistsError as e:
        fresh.unlink()
        raise EffaceError(f"{kept}: the file exists; move it to another folder first") from e
    except OSError as e:
        fresh.unlink(missing_ok=True)
        raise EffaceError(f"{path}: the key cannot be rotated ({e.strerror})") from e
    return new, old, kept


def kept_keys(path: Path) -> list[Key]:
    """The key at ``path`` and the old keys that :func:`rotate_key` kept beside it.

    Raises the errors of :func:`read_key`.
    """
    return [read_key(p) for p in (path, *sorted(path.parent.glob(f"{path.name}.*.old")))]


def subject_label(key: Key, patient_id: str, issuer: str, study_uid: str) -> str:
    """Pseudonym ``sub-…`` of a person. Without a patient id each study is a separate person."""
    if patient_id.strip():
        return "sub-" + key.label("subject", issuer.strip(), patient_id.strip())
    return "sub-" + key.label("subject-of-study", study_uid)


def session_label(key: Key, study_uid: str) -> str:
    """Pseudonym ``ses-…`` of a study."""
    return "ses-" + key.label("session", study_uid)


def series_label(key: Key, series_uid: str) -> str:
    """Pseudonym ``series-…`` of a series."""
    return "series-" + key.label("series", series_uid)
