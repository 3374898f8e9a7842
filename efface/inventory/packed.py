"""Archives and compressed files, recognised by their content."""

from __future__ import annotations

import tarfile
import zlib

from efface.status import NOT_DICOM

START = 1024
"""Number of bytes from the start of a file that :func:`reason` needs."""

_ARCHIVES = {
    b"PK\3\4": "zip", b"PK\5\6": "zip", b"PK\7\x08": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar",
}  # fmt: skip
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress",
}  # fmt: skip


def reason(start: bytes) -> str:
    r"""Reason against a file that is not DICOM, with the next step; ``start``: its first bytes.

    >>> reason(b"PK\x03\x04")
    'not DICOM: a zip archive; unpack it first'
    """
    for magic, name in _ARCHIVES.items():
        if start.startswith(magic):
            return f"{NOT_DICOM}: a {name} archive; unpack it first"
    if _is_tar(start):
        return f"{NOT_DICOM}: a tar archive; unpack it first"
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            inside = _gunzip(start) if name == "gzip" else b""
            if inside[128:132] == b"DICM":
                return f"{NOT_DICOM}: DICOM compressed by gzip; uncompress it first"
            if _is_nifti(inside):
                return NIFTI
            if _is_tar(inside):
                return f"{NOT_DICOM}: a tar archive compressed by gzip; unpack it first"
            return f"{NOT_DICOM}: a file compressed by {name}; uncompress it first"
    return NIFTI if _is_nifti(start) else NOT_DICOM


NIFTI = f"{NOT_DICOM}: NIfTI is read only from a BIDS dataset, or by efface deface"


def _is_tar(start: bytes) -> bool:
    try:
        # the header has a checksum; the old format has no magic number
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _is_nifti(start: bytes) -> bool:
    return start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")


def _gunzip(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start, START)
    except zlib.error:
        return b""
