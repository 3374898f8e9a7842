"""Malformed files of a release are findings, whatever identifiers are searched for."""

import io
import struct

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless
from test_audit import clean

from efface import nifti
from efface.audit.identifiers import Identifier
from efface.audit.leaks import scan
from efface.audit.matcher import Matcher
from efface.inventory.fragments import BrokenItemsError, TruncatedItemsError, walk_items

NAME = Identifier("patient name", "Quillfeather")
UNREADABLE = ("structure: cannot be read (ValueError)", "the file")
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def findings(path, data, *identifiers):
    return {(f.kind, f.place) for f in scan(path, data, Matcher(identifiers))}


def item(content):
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def walk(data):
    return walk_items(lambda at, n: data[at : at + n], 0, len(data))


# --- fragments of pixel data


@given(st.lists(st.binary(max_size=20), max_size=5), st.binary(max_size=20))
def test_items_are_located(contents, after):
    data = b"".join(map(item, contents)) + DELIMITER + after
    items = walk(data)
    assert [data[at : at + length] for at, length in items.places] == contents
    assert data[items.end :] == after
    assert items.delimited


def test_items_without_a_delimiter_are_not_delimited():
    items = walk(item(b"ab"))
    assert not items.delimited
    assert items.end == 10


def test_broken_items_are_rejected():
    with pytest.raises(TruncatedItemsError):
        walk(item(b"abcd")[:-1])
    with pytest.raises(BrokenItemsError, match="broken"):
        walk(item(b"ab") + b"\x10\x00\x10\x00" + b"\4\0\0\0name" + DELIMITER)


# --- DICOM


def compressed(syntax=JPEG2000Lossless, frame=b"\xff\x4f stream"):
    ds = pydicom.dcmread(io.BytesIO(clean()))
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def test_bytes_after_compressed_pixels_are_findings():
    assert findings("x.dcm", compressed(), NAME) == set()
    with_tail = findings("x.dcm", compressed() + b"\0\0Quillfeather", NAME)
    assert {k for k, _ in with_tail} == {"patient name", "structure: something after the pixels"}


def test_an_element_among_the_fragments_is_not_searched_as_pixels():
    """In pixels only long identifiers are searched: short ones occur there by chance."""
    data = compressed()
    assert data.endswith(DELIMITER)
    other = b"\x10\x00\x10\x00" + struct.pack("<I", 4) + b"Kim "
    hidden = data.removesuffix(DELIMITER) + other + DELIMITER
    result = findings("x.dcm", hidden, Identifier("patient name", "Kim"))
    assert ("structure: cannot be read (BrokenItemsError)", "the file") in result
    assert "patient name" in {k for k, _ in result}


def test_fragments_without_a_delimiter_and_truncated_pixels_are_unreadable():
    assert UNREADABLE in findings("x.dcm", compressed().removesuffix(DELIMITER))
    assert UNREADABLE in findings("x.dcm", clean()[:-1])


def test_compressed_pixels_may_be_longer_than_native_ones():
    """Noise grows when it is compressed."""
    assert findings("x.dcm", compressed(RLELossless, bytes(200))) == set()


# --- NIfTI


def image(shape=(4, 4, 4)):
    img = nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
    return nifti.to_bytes(img)


def with_bytes(data, at, form, *values):
    out = bytearray(data)
    struct.pack_into(form, out, at, *values)
    return bytes(out)


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (0, "<i", 347),  # size of the header
        (40, "<h", 0),  # dimensions
        (40, "<h", 8),
        (42, "<h", -4),
        (70, "<h", 9999),  # data type
        (72, "<h", 64),  # bits of a voxel: other than those of the data type
        (108, "<f", 100.0),  # offset of the voxels: within the header
        (108, "<f", float("nan")),
        (108, "<f", float("inf")),
        (344, "4s", b"none"),  # magic
        (344, "4s", b"ni1\0"),  # header and voxels in two files
    ],
)
def test_a_nifti_header_that_could_be_read_in_two_ways_is_rejected(at, form, value):
    data = image()
    assert findings("x.nii", data) == set()
    broken = with_bytes(data, at, form, value) + b"Quillfeather"
    kinds = {k for k, _ in findings("x.nii", broken, NAME)}
    assert "patient name" in kinds
    assert any(k.startswith("structure: cannot be read") for k in kinds)


def test_a_truncated_image_is_unreadable():
    assert UNREADABLE in findings("x.nii", image()[:-1])
    assert findings("x.nii", b"") != set()


def test_big_endian_and_nifti_2_headers_are_read():
    big = nib.Nifti1Image(np.zeros((4, 4, 4), ">i2"), np.eye(4))
    big = nib.Nifti1Image(big.dataobj, np.eye(4), big.header.as_byteswapped(">"))
    assert findings("x.nii", big.to_bytes(), NAME) == set()
    second = nib.Nifti2Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    assert findings("x.nii", second.to_bytes(), NAME) == set()
    second.header["aux_file"] = b"Quillfeather"
    result = findings("x.nii", second.to_bytes(), NAME)
    assert ("structure: text in the NIfTI header", "aux_file") in result
    second.header["aux_file"] = b""
    second.header["unused_str"] = b"x"
    assert findings("x.nii", second.to_bytes()) == {
        ("structure: text in the NIfTI header", "unused_str")
    }


# --- the matcher, compared with a plain search


@given(
    st.lists(st.binary(min_size=4, max_size=9), min_size=1, max_size=6, unique=True),
    st.binary(max_size=60),
    st.data(),
)
def test_the_automaton_has_the_matches_of_a_plain_search(keys, data, draw):
    """The prefilter of the library drops no overlapping match."""
    from daachorse import DoubleArrayAhoCorasick

    for key in draw.draw(st.lists(st.sampled_from(keys), max_size=4)):
        at = draw.draw(st.integers(0, len(data)))
        data = data[:at] + key + data[at:]
    plain = sorted(
        (at, at + len(key), n)
        for n, key in enumerate(keys)
        for at in range(len(data))
        if data.startswith(key, at)
    )
    assert sorted(DoubleArrayAhoCorasick(keys).find_overlapping(data)) == plain
