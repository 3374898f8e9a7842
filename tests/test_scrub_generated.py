"""Well-formed data sets by pydicom with a person's name, in every character set and at any depth.

tests/test_scrub_properties.py builds raw bytes of any kind; here each value is well formed, so that
nothing is removed because it is malformed.
"""

import io

import pydicom
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from small_dicom import mr

from efface.pseudonym import Key
from efface.scrub import scrub_bytes
from efface.scrub.table import rows

KEY = Key(b"g" * 32)
WHO = (KEY, "sub-aaaaaaaaaa", "ses-bbbbbbbbbb")
PEOPLE = {
    "ISO_IR 6": "Quaxolotl",
    "ISO_IR 100": "Quäxölötl",
    "ISO_IR 101": "Quaxołotľ",
    "ISO_IR 126": "Κουαξολότλ",
    "ISO_IR 144": "Куаксолотль",
    "ISO_IR 138": "קואקסולוטל",
    "ISO_IR 166": "ควักโซล",
    "ISO_IR 192": "Quäxölötl語",
    "GB18030": "夸克索洛特",
    "GBK": "夸克索洛特",
    "\\ISO 2022 IR 87": "久亜楚呂徒",
    "\\ISO 2022 IR 149": "쿠악솔로틀",
    "ISO 2022 IR 13\\ISO 2022 IR 87": "久亜楚呂徒",
    "ISO 2022 IR 13": "ｸｱｸｿﾛﾄﾙ",
}
"""A name that each character set can write."""
ENCODINGS = [
    *("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "iso8859-2", "iso8859-7"),
    *("iso8859-5", "iso8859-8", "tis-620", "gb18030", "iso2022_jp", "euc_kr", "shift_jis"),
]
IDENTIFIER, UID = "QX-90417-77", "1.2.840.99.417.77.1"
TEXT = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
_LONGEST = {"AE": 16, "SH": 16, "LO": 64}
_tags = sorted(
    {int(r["tag"].replace(",", ""), 16) for r in rows("iod.tsv")}
    - {0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080064}
)
_tags = [t for t in _tags if t >> 16 not in (0x0028, 0x7FE0, 0x0002) and keyword_for_tag(t)]
TEXTS = [t for t in _tags if dictionary_VR(t) in TEXT]
SEQUENCES = [t for t in _tags if dictionary_VR(t) == "SQ"]
BYTES = [t for t in _tags if dictionary_VR(t) in ("OB", "UN")]
UIDS = [t for t in _tags if dictionary_VR(t) == "UI" and "Class" not in keyword_for_tag(t)]

sentences = st.sampled_from(["{}", "{}^Ida", "seen by {}", "t1 {}", "{} 7T", "x\\{}"])


@st.composite
def data_sets(draw, person, depth=3):
    """A data set with the person in some texts, ids, UIDs, private blocks, and in its sequences."""
    ds = Dataset()
    for tag in draw(st.lists(st.sampled_from(TEXTS), max_size=5, unique=True)):
        vr = dictionary_VR(tag)
        text = draw(sentences).format(draw(st.sampled_from([person, IDENTIFIER])))
        # a backslash would split a text that cannot have two values
        text = text.replace("\\", "/") if vr in ("ST", "LT", "UT") else text
        ds.add_new(tag, vr, text[: _LONGEST.get(vr, 999)])
    for tag in draw(st.lists(st.sampled_from(UIDS), max_size=2, unique=True)):
        ds.add_new(tag, "UI", UID)
    for tag in draw(st.lists(st.sampled_from(BYTES), max_size=1)) if BYTES else []:
        ds.add_new(tag, "OB", (person.encode() + b"\0") * 2)
    if draw(st.booleans()):
        block = ds.private_block(draw(st.sampled_from([0x0009, 0x0019, 0x0051])), person, True)
        block.add_new(1, "LO", person)
        block.add_new(2, "OB", person.encode("utf-16-le"))
        inner = Dataset()
        inner.PatientName = person
        block.add_new(3, "SQ", Sequence([inner]))
    if draw(st.booleans()):
        ds.add_new(0x00091101, "UN", person.encode())
    if depth:
        for tag in draw(st.lists(st.sampled_from(SEQUENCES), max_size=2, unique=True)):
            items = draw(st.lists(data_sets(person, depth - 1), max_size=2))
            ds.add_new(tag, "SQ", Sequence(items))
            ds[tag].is_undefined_length = draw(st.booleans())
    return ds


@st.composite
def files(draw):
    """The bytes of an image, the name in it, and the data set that was written."""
    charset, person = draw(st.sampled_from(sorted(PEOPLE.items())))
    ds = mr(1, SOPInstanceUID=UID + ".5", PatientName=f"{person}^Ida", PatientID=IDENTIFIER,
            SeriesDescription=None, InstitutionName=person, ImageComments=person)  # fmt: skip
    ds.SpecificCharacterSet = charset.split("\\") if "\\" in charset else charset
    ds.update(draw(data_sets(person)))
    ds.preamble = person.encode()[:128].ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = "QX-90417-77"
    out = io.BytesIO()
    try:
        pydicom.dcmwrite(out, ds, enforce_file_format=True)
    except (TypeError, UnicodeError):  # the character set lacks these letters
        assume(False)
    return out.getvalue(), person, ds


def holds(data, person):
    """Encoding and text of the first identifier in the bytes; empty if there is none."""
    low = data.lower()
    for encoding in ENCODINGS:
        for identifier in (person, IDENTIFIER, UID):
            try:
                sought = identifier.lower().encode(encoding)
            except UnicodeError:
                continue
            if len(sought) > 4 and (sought in low or identifier.encode(encoding) in data):
                return f"{encoding}: {identifier!r}"
    return ""


GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
            "Rows", "Columns", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle",
            "ImageType", "ScanningSequence", "SequenceVariant", "MRAcquisitionType")  # fmt: skip
quick = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@quick
@given(files())
@pytest.mark.filterwarnings("ignore")
def test_identifiers_are_removed_in_any_character_set(file):
    data, person, original = file
    out = scrub_bytes(data, *WHO)
    assert not holds(out, person)
    ds = pydicom.dcmread(io.BytesIO(out))
    elements = list(ds.iterall())  # decodes every value
    assert not [e for e in elements if e.tag.is_private]
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == KEY.uid(UID + ".5")
    assert ds.pixel_array.tobytes() == original.pixel_array.tobytes()
    for name in GEOMETRY:
        assert ds[name].value == original[name].value, name


@quick
@given(files())
@pytest.mark.filterwarnings("ignore")
def test_a_uid_is_mapped_to_the_same_uid_at_any_depth(file):
    data, _, original = file
    ds = pydicom.dcmread(io.BytesIO(scrub_bytes(data, *WHO)))
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert ds[name].value == KEY.uid(original[name].value)
    known = {KEY.uid(str(e.value)) for e in original.iterall() if e.VR == "UI"}
    for e in ds.iterall():
        if e.VR == "UI" and e.value:
            assert e.value.startswith("1.2.840.10008.") or e.value in known


@quick
@given(files(), st.sets(st.sampled_from(["device", "institution", "patient-characteristics",
                                         "dates-full", "descriptors"])))  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_every_option_removes_the_name(file, retain):
    data, person, original = file
    # a device's own UID stays with the device (Table E.1-1, Rtn. Dev. Id. Opt.), as asked
    assume("device" not in retain or all(e.keyword != "DeviceUID" for e in original.iterall()))
    assert not holds(scrub_bytes(data, *WHO, tuple(sorted(retain))), person)


@pytest.mark.parametrize(
    ("charset", "person"),
    [*PEOPLE.items(), ("GB18030", "王伟"), ("\\ISO 2022 IR 149", "김철"), ("ISO_IR 192", "李娜")],
)
def test_text_that_an_option_keeps_has_no_name_in_any_character_set(charset, person):
    ds = mr(1, PatientName=f"{person}^Ida", InstitutionName=person)
    ds.InstitutionalDepartmentName = "MR 2"
    ds.SpecificCharacterSet = charset.split("\\") if "\\" in charset else charset
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    kept = pydicom.dcmread(io.BytesIO(scrub_bytes(out.getvalue(), *WHO, ("institution",))))
    assert not kept.get("InstitutionName")
    assert kept.InstitutionalDepartmentName == "MR 2"
