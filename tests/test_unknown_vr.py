"""Sequences that a system wrote with VR UN, because it did not know the attribute."""

import itertools
import struct

import pytest
from pydicom.tag import Tag
from small_dicom import mr

from efface import status
from efface.pseudonym import Key
from efface.scrub import WithheldError, scrub_file

KEY = Key(b"o" * 32)
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD


def item_header(number, length=0):
    return struct.pack("<HHI", 0xFFFE, number, length)


def element(tag, vr, value, explicit):
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    size = vr + struct.pack("<H", len(value)) if explicit else struct.pack("<I", len(value))
    return head + size + value


def sequence(tag, vr, items, item_open, open_):
    """A sequence of VR ``vr`` with explicit VR; open: of undefined length, with a delimiter."""
    body = b"".join(
        item_header(ITEM, UNDEFINED) + i + item_header(ITEM_END)
        if item_open
        else item_header(ITEM, len(i)) + i
        for i in items
    )
    length = UNDEFINED if open_ else len(body)
    head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)
    return head + body + (item_header(SEQUENCE_END) if open_ else b"")


def code(explicit):
    """An item with a code of the standard, whose meaning contains a name."""
    return b"".join(
        element(tag, vr, value, explicit)
        for tag, vr, value in (
            (0x00080100, b"SH", b"T-A0100"),
            (0x00080102, b"SH", b"SRT"),
            (0x00080104, b"LO", b"Brain of Quillfeather"),
        )
    )


def reference(explicit):
    uid = element(0x00081150, b"UI", b"1.2.840.10008.5.1.4.1.1.4", explicit)
    return uid + element(0x00081155, b"UI", b"1.2.3.4.5.7", explicit)


def scrubbed(folder, tag, content):
    """The scrubbed bytes of an image with the given element."""
    path, out = folder / "image", folder / "out"
    mr(1).save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    # before the first element with a higher tag
    following = next(e.tag for e in mr(1) if e.tag > tag)
    at = whole.index(struct.pack("<HH", following.group, following.element), 340)
    path.write_bytes(whole[:at] + content + whole[at:])
    scrub_file(path, out, KEY, "sub-a", "ses-b")
    return out.read_bytes()


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit items", "implicit items"])
@pytest.mark.parametrize(("item_open", "open_"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize(
    ("tag", "item"),
    [(0x00082218, code), (0x00081140, reference), (0x00211001, code)],
    ids=["coded", "references", "private"],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_sequences_with_vr_un_are_read_as_vr_sq(
    tmp_path, tag, item, count, explicit, item_open, open_
):
    known = scrubbed(tmp_path, tag, sequence(tag, b"SQ", [item(True)] * count, False, False))
    content = sequence(tag, b"UN", [item(explicit)] * count, item_open, open_)
    unknown = scrubbed(tmp_path, tag, content)
    assert unknown == known
    assert b"Quillfeather" not in unknown


@pytest.mark.parametrize("outer", [b"SQ", b"UN"])
def test_nested_sequences_with_vr_un_are_read(tmp_path, outer):
    inner = sequence(0x00082218, b"UN", [code(True)], False, True)
    content = sequence(0x00081140, outer, [reference(True) + inner], False, True)
    same = sequence(0x00082218, b"SQ", [code(True)], False, False)
    known = sequence(0x00081140, b"SQ", [reference(True) + same], False, False)
    assert scrubbed(tmp_path, 0x00081140, content) == scrubbed(tmp_path, 0x00081140, known)


@pytest.mark.parametrize("tag", [0x00082218, 0x00211001], ids=["known", "private"])
def test_an_unreadable_sequence_is_withheld_with_a_reason(tmp_path, tag):
    content = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, UNDEFINED)
    content += (
        item_header(ITEM, 40)
        + b"no elements at all, in any of both forms"
        + item_header(SEQUENCE_END)
    )
    with pytest.raises(WithheldError, match=f"{status.UNREADABLE}: a sequence with VR UN"):
        scrubbed(tmp_path, Tag(tag), content)
