"""The leak scan behind ``efface scrub``: a file is searched before it is written."""

import io

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scrub import KEY, as_file, image

from efface import status
from efface.inventory.walk import SourceFile
from efface.scrub import folder, people, search
from efface.scrub.codec import DamagedError
from efface.scrub.folder import scrub_folder
from efface.scrub.people import FileIdentity

PERSON = {"PatientName": "García^José", "PatientID": "HX-77431", "PatientBirthDate": "19630417"}
SR = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "Modality": "SR"}


@pytest.fixture
def leaky_scrub(monkeypatch):
    """Make the scrub write a given text into every file."""
    real = folder.scrub_elements

    def planting(text):
        def scrub_elements(*given_):
            ds = pydicom.dcmread(io.BytesIO(real(*given_)))
            ds.SequenceName = text
            out = io.BytesIO()
            ds.save_as(out)
            return out.getvalue()

        monkeypatch.setattr(folder, "scrub_elements", scrub_elements)

    return planting


def put(folder, name, **attributes):
    """Write a file with its own SOP Instance UID into the folder."""
    folder.mkdir(exist_ok=True, parents=True)
    number = len(list(folder.iterdir()))
    ds = image(**{"SOPInstanceUID": f"1.2.3.4.{number}"} | PERSON | attributes)
    (folder / name).write_bytes(as_file(ds))


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        *(
            ("garcia jose", "patient name"),
            ("JoseGarcia", "patient name"),
            ("jose1", "patient name"),
        ),
        *(("x_garcia1", "patient name"), ("Garcia, Jose", "patient name")),
        *(("hx77431", "patient id"), ("17.4.63", "birth date"), ("7-Mar-2019", "date")),
    ],
)
def test_a_file_with_a_remaining_identifier_is_withheld(tmp_path, leaky_scrub, written, kind):
    leaky_scrub(written)
    put(tmp_path / "in", "a")
    report = scrub_folder(tmp_path / "in", tmp_path / "out", KEY)
    assert (report.written, report.series) == (0, 0)
    where = "(0018,0024) SequenceName"
    assert report.withheld == (("a", f"{status.IDENTIFIER_FOUND}: {kind} in {where}"),)
    assert f"1 {status.IDENTIFIER_FOUND}: {kind} in {where}" in report.summary()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "other",
    [
        # the same study without a patient id; the same person in another study
        {"PatientID": "", "SeriesInstanceUID": "1.2.3.3"},
        {"StudyInstanceUID": "1.2.9", "SeriesInstanceUID": "1.2.9.1"},
        # a report, which is withheld itself
        SR,
    ],
)
def test_a_file_is_searched_for_the_names_in_files_of_its_study_or_person(
    tmp_path, leaky_scrub, other
):
    leaky_scrub("mara_ostrander")
    put(tmp_path / "in", "a")
    put(tmp_path / "in", "b", **{"OperatorsName": "Ostrander^Mara", **other})
    report = scrub_folder(tmp_path / "in", tmp_path / "out", KEY)
    assert (
        "a",
        f"{status.IDENTIFIER_FOUND}: person name in (0018,0024) SequenceName",
    ) in report.withheld
    assert report.written == 0


def test_names_of_folders_are_searched_for(tmp_path, leaky_scrub):
    leaky_scrub("ostrander 31")
    put(tmp_path / "in" / "Ostrander_MARA_31", "a")
    report = scrub_folder(tmp_path / "in", tmp_path / "out", KEY)
    assert [reason for _, reason in report.withheld] == [
        f"{status.IDENTIFIER_FOUND}: file or folder name in (0018,0024) SequenceName"
    ]


def test_values_kept_by_an_option_are_not_findings(tmp_path, leaky_scrub):
    leaky_scrub("Saint Wendel")
    put(tmp_path / "in", "a", InstitutionName="Saint Wendel")
    assert scrub_folder(tmp_path / "in", tmp_path / "out", KEY, ["device"]).written == 0
    assert scrub_folder(tmp_path / "in", tmp_path / "out2", KEY, ["institution"]).written == 1


def test_files_without_a_finding_are_written_and_numbered(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        put(tmp_path / "in", name, InstanceNumber={"a": 1, "b": 2, "c": 3}[name])
    real = folder.scrub_elements

    def of_the_second(*given_):
        ds = pydicom.dcmread(io.BytesIO(real(*given_)))
        ds.SequenceName = "garcia" if ds.InstanceNumber == 2 else "tfl"
        out = io.BytesIO()
        ds.save_as(out)
        return out.getvalue()

    monkeypatch.setattr(folder, "scrub_elements", of_the_second)
    report = scrub_folder(tmp_path / "in", tmp_path / "out", KEY)
    assert [name for name, _ in report.withheld] == ["b"]
    names = sorted(p.name for p in (tmp_path / "out").rglob("*.dcm"))
    assert names == ["000001.dcm", "000002.dcm"]


def test_a_file_without_readable_identity_is_not_written(tmp_path, monkeypatch):
    put(tmp_path / "in", "a")
    read = [FileIdentity(SourceFile(str(tmp_path / "in" / "a")))]
    real = people.survey
    monkeypatch.setattr(people, "survey", lambda *a: (read, real(*a)[1]))
    report = scrub_folder(tmp_path / "in", tmp_path / "out", KEY)
    assert report.withheld == (("a", f"{status.UNREADABLE}: its identifiers"),)


@given(st.lists(st.tuples(st.sampled_from(["", *"abcdef"]), st.sampled_from(["", *"uvwxyz"]))))
def test_groups_share_no_study_and_no_person(owners):
    identities = [FileIdentity(SourceFile(str(n)), *keys) for n, keys in enumerate(owners)]
    groups = [[int(f.path) for f in group.files] for group in search.groups(identities, [])]
    assert sorted(n for files in groups for n in files) == list(range(len(owners)))
    assert all(files == sorted(files) for files in groups)
    for kind in range(2):
        pairs = [(owners[n][kind], k) for k, files in enumerate(groups) for n in files]
        known = {(key, k) for key, k in pairs if key}
        assert len({key for key, _ in known}) == len(known)


def test_a_deflated_file_is_searched(tmp_path, monkeypatch):
    deflated = "1.2.840.10008.1.2.1.99"
    put(tmp_path / "in", "a")
    ds = pydicom.dcmread(tmp_path / "in" / "a")
    ds.file_meta.TransferSyntaxUID = deflated
    ds.save_as(tmp_path / "in" / "a")
    assert scrub_folder(tmp_path / "in", tmp_path / "out", KEY).written == 1
    (path,) = (tmp_path / "out").rglob("*.dcm")
    written = path.read_bytes()
    assert written[128:400].count(deflated.encode()) == 1
    group = search.groups([FileIdentity(SourceFile(str(tmp_path / "in" / "a")), "1")], [])[0]
    place = path.relative_to(tmp_path / "out")
    group.check(place, written)
    ds = pydicom.dcmread(io.BytesIO(written))
    ds.SequenceName = "garcia"
    out = io.BytesIO()
    ds.save_as(out)
    with pytest.raises(DamagedError, match=r"patient name in \(0018,0024\) SequenceName"):
        group.check(place, out.getvalue())
    with pytest.raises(DamagedError, match="bytes after the compressed data"):
        group.check(place, written + b"OSTRANDER")
