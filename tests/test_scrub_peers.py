"""Attributes that efface keeps and a peer removes: a table lists each with the reason.

The peer is dicom-anonymizer (requirements-dev.txt). Both tools get the same data set, which holds
every attribute that DICOM has and in each a value that could stay.
"""

import csv
import io
import re
from functools import cache
from pathlib import Path

import pydicom
import pytest
from dicomanonymizer import simpledicomanonymizer as peer
from pydicom.datadict import DicomDictionary
from pydicom.errors import InvalidDicomError
from small_dicom import MR, mr

from efface.pseudonym import Key
from efface.scrub import WithheldError, scrub_bytes
from efface.scrub.codec import Element, read_file, syntax, write_file
from efface.scrub.table import _profile, _terms

TABLE = Path(__file__).with_name("kept_beyond_peer.tsv")
WHO = (Key(b"k" * 32), "sub-aaaaaaaaaa", "ses-bbbbbbbbbb")
EXPLICIT = "1.2.840.10008.1.2.1"
VALUES = {
    "AE": b"SCANNER", "AS": b"047Y", "AT": b"\x28\0\x10\0", "DA": b"20190307", "DS": b"2.5 ",
    "DT": b"20190307101112", "FD": b"\0\0\0\0\0\0\4@", "FL": b"\0\0 @", "IS": b"3 ", "LO": b"t1",
    "LT": b"t1", "OB": b"\1\0", "OD": b"\0\0\0\0\0\0\4@", "OF": b"\0\0 @", "OL": b"\1\0\0\0",
    "OV": b"\1\0\0\0\0\0\0\0", "OW": b"\1\0", "PN": b"Quill^Mara", "SH": b"t1", "SL": b"\1\0\0\0",
    "SS": b"\1\0", "ST": b"t1", "SV": b"\1\0\0\0\0\0\0\0", "TM": b"101112", "UC": b"t1",
    "UI": b"1.2.3.77", "UL": b"\1\0\0\0", "UN": b"t1", "UR": b"http://a.b", "US": b"\1\0",
    "UT": b"t1", "UV": b"\1\0\0\0\0\0\0\0",
}  # fmt: skip
"""A well-formed value of each VR without a name."""
ITEM = [
    Element(0x00080070, "LO", b"SIEMENS"),
    Element(0x00081150, "UI", MR.encode() + b"\0"),
    Element(0x00081155, "UI", b"1.2.3.88"),
    Element(0x00180081, "DS", b"2.5 "),
    Element(0x00280010, "US", b"\1\0"),
]
"""An item of every sequence."""


def table():
    with TABLE.open(newline="") as f:
        rows = csv.DictReader((x for x in f if not x.startswith("#")), delimiter="\t")
        return {row["tag"]: row for row in rows}


def every_attribute():
    """An MR image with each public attribute of the dictionary, as raw elements."""
    core = read_file(as_file(mr()))[1]
    present = {e.tag for e in core}
    more = []
    for tag, (vrs, _, name, _, _) in DicomDictionary.items():
        group = tag >> 16
        # not the pixels, and no group that is not part of a data set
        if tag in present or group in (0, 2, 4, 0x7FE0, 0xFFFC, 0xFFFE):
            continue
        vr = vrs.split(" or ", maxsplit=1)[0]
        if vr == "SQ":
            more.append(Element(tag, vr, items=[ITEM]))
            continue
        if name in ("Conversion Type", "Burned In Annotation", "Number of Frames"):
            continue
        if group == 0x28 and "Palette" in name:
            continue
        terms = sorted(t for t in _terms().get(tag, (False, ["YES"]))[1] if t)
        more.append(Element(tag, vr, terms[0].encode() if vr == "CS" and terms else value(vr)))
    return [*core, *more]


def value(vr):
    return VALUES.get(vr, b"YES")


def as_file(ds):
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def values(ds, path=""):
    """Value of each public element by its path, of every depth; items count from 0."""
    for e in ds:
        where = f"{path}{e.tag.group:04X},{e.tag.element:04X}"
        if e.tag.is_private:
            continue
        if e.VR == "SQ":
            for n, item in enumerate(e.value):
                yield from values(item, f"{where}[{n}].")
        elif e.value not in (None, "", b"", []):
            yield where, str(e.value)


@cache
def by_peer(data):
    ds = pydicom.dcmread(io.BytesIO(data))
    peer.anonymize_dataset(ds, base_rules_gen=peer.initialize_actions_2024b)
    out = io.BytesIO()
    ds.save_as(out)
    return dict(values(pydicom.dcmread(io.BytesIO(out.getvalue()))))


def kept_beyond(data, retain=()):
    """Paths of tags (``0008,1140>0008,1150``) whose value efface keeps and the peer does not."""
    original = dict(values(pydicom.dcmread(io.BytesIO(data))))
    ours = dict(values(pydicom.dcmread(io.BytesIO(scrub_bytes(data, *WHO, tuple(retain))))))
    theirs = by_peer(data)
    kept = (path for path in original if ours.get(path) == original[path] != theirs.get(path))
    return {re.sub(r"\[\d+\]\.", ">", path) for path in kept}


def unlisted(kept):
    """Paths without a row in the table, neither for the tag nor for a sequence around it."""
    listed = table().keys()
    return {path for path in kept if not listed & set(path.split(">"))}


@cache
def generated():
    elements = every_attribute()
    # also within a sequence that an MR image keeps: (0018,9226) in (5200,9230) is one
    inner = [e for e in elements if e.tag not in (0x7FE00010, 0x52009229, 0x52009230)]
    frame = Element(0x00189226, "SQ", items=[inner])
    nested = Element(0x52009230, "SQ", items=[[frame]])
    meta = [Element(0x00020010, "UI", EXPLICIT.encode())]
    return write_file(syntax(EXPLICIT), meta, [*elements, nested])


def test_what_is_kept_beyond_the_peer_is_listed():
    kept = kept_beyond(generated())
    assert not unlisted(kept)
    used = {tag for path in kept for tag in path.split(">")}
    assert not table().keys() - used  # every row is needed


def test_rows_of_the_table_have_the_right_keyword_and_a_reason():
    for tag, row in table().items():
        assert pydicom.datadict.keyword_for_tag(tag.replace(",", "")) == row["keyword"], tag
        assert row["reason"], tag


def test_the_table_quotes_the_profile():
    for tag, row in table().items():
        row_of_profile = _profile().get(int(tag.replace(",", ""), 16))
        assert row["profile"] == (row_of_profile["basic"] if row_of_profile else ""), tag


def test_real_series_keep_nothing_unlisted(data):
    series = sorted({p.parent for p in (data / "dicom").glob("SITE_*/**/*") if p.is_file()})
    compared = 0
    for folder in series:
        path = min(p for p in folder.iterdir() if p.is_file())
        try:
            kept = kept_beyond(path.read_bytes())
        except (WithheldError, ValueError, InvalidDicomError):  # the peer refuses some
            continue
        compared += 1
        assert not unlisted(kept), path.parent.name
    assert compared


@pytest.mark.parametrize("option", ["uids", "device", "institution", "patient-characteristics",
                                    "dates-full", "descriptors"])  # fmt: skip
def test_an_option_keeps_what_the_peer_removes(option):
    """The comparison can fail: it detects what an option keeps."""
    assert unlisted(kept_beyond(generated(), [option]))
