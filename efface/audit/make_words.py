"""Makes ``own_words.tsv``: the words that efface itself writes into releases and audits.

``python -m efface.audit.make_words``

A person, a station or a folder may be called as one of these words (White, Page, Noise). The name
by itself would be found in every page, so it is not searched there
(:func:`efface.audit.words.own_words`). Each word weakens the search a little: review what a change
adds to the table.

The table holds the words of files that are written here from invented scans: all statuses, reasons
without their details, measures, settings and columns, each with the files where it is. Left out are
words that are technical anyway, that start with a digit, that are shorter than any identifier, and
colours. A detail of a reason, a note or a measure with somebody's name is left out of the report
instead (:mod:`efface.audit.report`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from efface import status
from efface.audit import attributes
from efface.audit.identifiers import LEAST, Identifier
from efface.audit.matcher import Matcher
from efface.audit.report import MEASURES, About, LeftOut, Row, report
from efface.audit.words import technical_words
from efface.convert.sidecar import CODES, allowed, deidentified
from efface.distort.methods import METHODS
from efface.inventory import cross_check
from efface.manifest import Manifest, Scan
from efface.measures import Figure, with_figures
from efface.pseudonym import Key
from efface.release import SETTINGS
from efface.release.bids import cohort_files
from efface.scrub import scrub_dataset, state_face_removed
from efface.scrub.table import OPTIONS

SCHEMA = Path(__file__).parents[1] / "workflow" / "config.schema.yaml"
TABLE = Path(__file__).parent / "own_words.tsv"
HEADER = """\
# Words that efface itself writes, and the files that hold them. Made by make_words.py. A name that
# is one of them is searched there only together with the other parts of the name.
word\tfiles
"""
_SESSION = "sub-2222222222_ses-2222222222"
_STATES = ("found", "outside", "covered", "blank", "missing")
"""Values of a measure of a part of the face."""
_KINDS = (
    *sorted(set(attributes.KINDS.values())),
    *("patient name", "person name", "birth date", "date", "uid", "description"),
    *("private element", "file or folder name", "host name", "user name"),
)


def table() -> str:
    """The table: each word once, with the files in which a search finds it."""
    texts: dict[str, list[str]] = defaultdict(list)
    for name, text in written():
        texts[name].append(re.sub(r"#[0-9a-f]{3,6}\b", "", text).casefold())
    words = {w for several in texts.values() for t in several for w in re.findall(r"[^\W_]+", t)}
    words = {w for w in words if len(w) >= LEAST["name"] and w[0].isalpha()} - technical_words()
    matcher = Matcher(Identifier(word, word) for word in words)
    files: dict[str, set[str]] = defaultdict(set)
    for name, several in texts.items():
        for match in matcher.search("\0".join(several).encode()):
            files[match.kind].add(name)
    return HEADER + "".join(
        f"{w}\t{' '.join(sorted(names))}\n" for w, names in sorted(files.items())
    )


def written() -> Iterator[tuple[str, str]]:
    """Name and text of every file that efface writes by itself, from invented scans."""
    for name, content in report(_rows(), _about(), _left_out()).items():
        yield name, content.decode()
    for layout in ("raw", "derivative"):
        for path, content in cohort_files([_manifest()], {}, layout).items():
            yield re.sub(r".*_scans\.tsv", "scans.tsv", path.rpartition("/")[2]), content.decode()
    codes = sorted(CODES)
    sidecar = allowed({"ConversionSoftware": "dcm2niix"})
    methods = ["efface", *(f"face: {name}" for name in METHODS)]
    yield "sidecar", json.dumps(deidentified(sidecar, methods, codes))
    yield "DICOM", " ".join(_texts(_object()))


def _rows() -> list[Row]:
    phrases = tuple(status.ALL.values())
    figures: dict[str, Figure] = dict.fromkeys(MEASURES, 1.5)
    states = dict(zip(("left_eye", "right_eye", "nose", "left_ear", "mouth"), _STATES, strict=True))
    figures |= {**states, "form": "nifti", "datatype": "", "method": ""}
    image = Scan(
        f"{_SESSION}_T1w",
        "series-2222222222",
        "",
        "pass",
        files={"after_front": "pictures/1.png"},
        measures=with_figures({}, figures),
    )
    series = Scan("series-2222222222", "series-2222222222", "", measures={"form": "dicom"})
    withheld = Scan("series-3", "series-3", "", "fail", phrases, measures={"form": "source"})
    waiting = Scan("series-4", "series-4", "", "review", phrases)
    return [
        Row(_SESSION, image, released=True, note="accepted by : "),
        Row(_SESSION, series, released=False, note="rejected by : "),
        Row(_SESSION, withheld, released=False),
        Row(_SESSION, waiting, released=False),
    ]


def _about() -> About:
    schema = yaml.safe_load(SCHEMA.read_text())
    settings = {
        name: schema["properties"][name].get("enum")
        or schema["properties"][name].get("items", {}).get("enum")
        or sorted(METHODS)
        for name in SETTINGS
    }
    files = {"released": 1, "withheld": 1, "duplicate": 1}
    return About("0", settings, "0", "0", files, dict.fromkeys(cross_check([]).counts, 1))


def _left_out() -> list[LeftOut]:
    fields = ("name", "reasons", "note", "settings", "files")
    return [LeftOut(_SESSION, "series-3", field, kind) for field in fields for kind in _KINDS]


def _manifest() -> Manifest:
    scan = Scan(
        f"{_SESSION}_T1w",
        "series-2222222222",
        files={"nifti": f"bids/{_SESSION.replace('_', '/')}/anat/{_SESSION}_T1w.nii.gz"},
        measures={
            "form": "nifti",
            "acq_time": "1800-01-01T00:00:00",
            "person": {"age": "30", "sex": "F"},
        },
    )
    return Manifest("audit", _SESSION, (scan,))


def _object() -> Dataset:
    ds = Dataset()
    for keyword, value in {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "SOPInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2.4",
        "SeriesInstanceUID": "1.2.5",
        "Modality": "MR",
        "Rows": 1,
        "Columns": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": b"\0\0",
    }.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    subject, visit = _SESSION.split("_")
    options = [option for option in OPTIONS if option != "dates-full"]
    out = scrub_dataset(ds, Key(bytes(32)), subject, visit, options)
    state_face_removed(out)
    return out


def _texts(ds: Dataset) -> Iterator[str]:
    for element in (*getattr(ds, "file_meta", ()), *ds.iterall()):
        if element.VR not in ("SQ", "UI", "OB", "OW"):
            yield str(element.value)


if __name__ == "__main__":
    TABLE.write_text(table())
