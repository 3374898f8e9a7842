"""The person of a file: no person is split, no two are merged, contradictions are reported."""

import json
import random
import shutil
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from small_dicom import mr, write

from efface import inventory
from efface.inventory import identity
from efface.inventory.header import read
from efface.inventory.identity import (
    birth_date,
    cross_check,
    is_placeholder,
    name_words,
    sex,
    state,
)
from efface.inventory.records import Entry
from efface.inventory.walk import walk
from efface.pseudonym import Key, subject_label
from efface.scrub import people
from efface.scrub.codec import load, read_file
from efface.scrub.folder import scrub_folder
from efface.session import as_dict

KEY = Key(b"k" * 32)
ID = "HX-77431"
PERSON = {
    "PatientID": ID,
    "PatientName": "Quarrington^Odalys",
    "PatientBirthDate": "19630417",
    "PatientSex": "F",
    "BodyPartExamined": "HEAD",
}
STATED = {
    "study": "1.2",
    "patient": ID,
    "name": "Quarrington^Odalys",
    "birth": "19630417",
    "sex": "F",
}
OTHER = {
    "PatientName": "Kowalczyk^Zofia",
    "PatientBirthDate": "19991231",
    "PatientSex": "M",
}
PLACEHOLDERS = [
    *("", "   ", None, "ANONYMOUS", "anon", "Anonymized", "***", "---", "?", "0", "000000", "xxx"),
    *(
        "XXXXXXXX",
        "UNKNOWN",
        "TEST",
        "N/A",
        "NONE",
        "none^none",
        "No ID",
        "null",
        "99999",
        "Inconnu",
    ),
    *("REMOVED", "not available", "John Doe", "ANONYM ", "Patient", "n.a.", "unbekannt"),
]


def item(**values):
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return one


def study(folder, number=1, series=1, **changes):
    """A series of two images in a study of its own number."""
    uid = f"1.2.826.7.{number}"
    values = {**PERSON, **changes}
    return write(folder, 2, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.{series}", **values)


def merged(source):
    """Sessions of a source whose entries are read separately, as in a run."""
    names = inventory.entries(source, KEY).values()
    return inventory.merge([inventory.run_entry(source, n, KEY) for n in names], KEY)


def verdict(*changes):
    return cross_check(state(KEY, **{**STATED, **change}) for change in changes)


ISSUERS = {
    "in one series": ({"IssuerOfPatientID": "CITYGENERAL"}, {}),
    "empty in one": ({"IssuerOfPatientID": "CITYGENERAL"}, {"IssuerOfPatientID": ""}),
    "in the id's padding": ({"IssuerOfPatientID": "CITYGENERAL"}, {"PatientID": f"{ID}  "}),
    "as qualifiers in one": (
        {
            "IssuerOfPatientIDQualifiersSequence": [
                item(UniversalEntityID="1.2.3.4", UniversalEntityIDType="ISO")
            ]
        },
        {},
    ),
    "as text and as qualifiers": (
        {"IssuerOfPatientID": "CITYGENERAL"},
        {
            "IssuerOfPatientIDQualifiersSequence": [
                item(UniversalEntityID="1.2.3.4", UniversalEntityIDType="ISO")
            ]
        },
    ),
    "without id in one": ({}, {"PatientID": None}),
    "with a placeholder in one": ({}, {"PatientID": "ANONYMOUS", "PatientName": "Anonymous"}),
    "without anything in one": (
        {"IssuerOfPatientID": "CITYGENERAL"},
        dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate", "PatientSex")),
    ),
}


@pytest.mark.parametrize("case", ISSUERS)
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("same_series", [True, False])
def test_missing_elements_do_not_split_a_study(tmp_path, case, step, same_series):
    one, two = ISSUERS[case][::step]
    source = tmp_path / "source"
    study(source / "a", **one)
    paths = study(source / "b", 1, 1 if same_series else 2, **two)
    if same_series:
        for number, path in enumerate(paths, 3):
            mr(
                number, **{**PERSON, **two}, StudyInstanceUID="1.2.826.7.1",
                SeriesInstanceUID="1.2.826.7.1.1",
            ).save_as(path, enforce_file_format=True)  # fmt: skip
    (session,) = merged(source)
    assert {s.status for s in session.series} == {"pass"}
    assert sum(len(s.files) for s in session.series) == 4
    report = scrub_folder(source, tmp_path / "out", KEY, ["dates-shifted"])
    assert report.written == 4
    assert [p.name for p in (tmp_path / "out").iterdir()] == [session.subject]
    # the table of files has the same session
    entries = [inventory.run_entry(source, n, KEY) for n in inventory.entries(source, KEY).values()]
    assert {r["session"] for r in inventory.files_table(entries)} == {session.session}


def test_an_issuer_in_one_study_of_a_person_joins_the_others():
    result = verdict({"issuer": "CITY"}, {"study": "1.3"})
    assert len({o.subject for o in result.owners.values()}) == 1
    assert not result.doubts
    # only the id is the same: it may be another person
    for unsure in ({"birth": ""}, {"name": "ANON"}, {"birth": "19900101"}, {"name": "A^B"}):
        result = verdict({"issuer": "CITY"}, {"study": "1.3", **unsure})
        assert len({o.subject for o in result.owners.values()}) == 2


@pytest.mark.parametrize("kind", ["issuer", "authority"])
def test_two_issuers_are_two_people(kind):
    result = verdict({kind: "A"}, {"study": "1.3", kind: "B", "name": "Else^Some"})
    assert len({o.subject for o in result.owners.values()}) == 2
    assert not result.doubts
    # in one study they contradict each other
    result = verdict({kind: "A"}, {kind: "B"}, {})
    assert len({o.subject for o in result.owners.values()}) == 3
    assert set(result.doubts.values()) == {("identity in doubt: one study with two issuers",)}


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_placeholders_never_merge_two_people(tmp_path, placeholder):
    source = tmp_path / "source"
    study(source / "a", 1, PatientID=placeholder)
    study(source / "b", 2, PatientID=placeholder, **OTHER)
    one, two = merged(source)
    assert one.subject != two.subject
    assert {s.status for x in (one, two) for s in x.series} == {"pass"}
    report = scrub_folder(source, tmp_path / "out", KEY)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {one.subject, two.subject}
    assert "studies without a usable patient id: 2" in report.summary()


@pytest.mark.parametrize(
    "text", [ID, "1", "11", "anon17", "TEST-0042", "2222", "Xu", "sub-0", "A", "王小东", "phantom1"]
)
def test_ids_that_are_not_placeholders(text):
    assert not is_placeholder(text)


CONTRADICTIONS = {
    "two patient ids": {"patient": "B-1"},
    "two names": {"name": "Quarrington^Odette"},
    "two birth dates": {"birth": "19630714"},
    "two sexes": {"sex": "O"},
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
@pytest.mark.parametrize("patient", [ID, "ANONYMOUS"])
def test_contradictions_in_one_study(what, patient):
    change = {"patient": patient, **CONTRADICTIONS[what]}
    result = verdict({"patient": patient}, change)
    if what == "two patient ids" and patient == "ANONYMOUS":
        assert not result.doubts  # a placeholder is not a patient id
        return
    assert set(result.doubts.values()) == {(f"identity in doubt: one study with {what}",)}
    assert result.counts["sessions in doubt"] == len({o.subject for o in result.owners.values()})


@pytest.mark.parametrize("what", [w for w in CONTRADICTIONS if w != "two patient ids"])
def test_contradictions_in_one_patient_id(tmp_path, what):
    keyword = {"two names": "PatientName", "two birth dates": "PatientBirthDate"}.get(
        what, "PatientSex"
    )
    source = tmp_path / "source"
    study(source / "a", 1)
    study(source / "b", 2, **{keyword: next(iter(CONTRADICTIONS[what].values()))})
    study(source / "c", 3, **OTHER, PatientID="else")
    sessions = {s.study[-1]: s for s in merged(source)}
    assert sessions["1"].subject == sessions["2"].subject
    for n in "12":
        (series,) = sessions[n].series
        assert series.status == "review"
        assert series.reasons == (f"identity in doubt: one patient id with {what}",)
    assert sessions["3"].series[0].status == "pass"
    report = scrub_folder(source, tmp_path / "out", KEY)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {sessions["3"].subject}
    assert [reason for _, reason in report.withheld] == [
        f"identity in doubt: one patient id with {what}"
    ] * 4
    assert report.in_doubt


def test_two_people_on_one_study_uid(tmp_path):
    source = tmp_path / "source"
    study(source / "a", 1, 1)
    # even within one series
    for n in (3, 4):
        values = {**PERSON, **OTHER, "PatientID": "KZ-1", "StudyInstanceUID": "1.2.826.7.1"}
        mr(n, **values, SeriesInstanceUID="1.2.826.7.1.1").save_as(
            source / "a" / f"x{n}", enforce_file_format=True
        )
    one, two = merged(source)
    assert one.subject != two.subject
    for session in (one, two):
        (series,) = session.series
        assert series.status == "review"
        facts = "two patient ids, two names, two birth dates, two sexes"
        assert series.reasons == (f"identity in doubt: one study with {facts}",)
        assert len(series.files) == 2
    report = scrub_folder(source, tmp_path / "out", KEY)
    assert report.written == 0
    assert len(report.withheld) == 4


def test_missing_values_contradict_nothing():
    fillers = [{f: v} for f in ("name", "birth", "sex") for v in ("", "***", "UNKNOWN")]
    fillers += [{"birth": v} for v in ("00000000", "19000101", "1963", "18991230")]
    fillers += [{"sex": "U"}, {"name": "Anonymous^Patient"}, {"name": "^^^^"}]
    result = verdict({}, *fillers, {"study": "1.3", "name": "", "birth": "", "sex": ""})
    assert len({o.subject for o in result.owners.values()}) == 1
    assert not result.doubts


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Quarrington^Odalys", "QUARRINGTON^ODALYS"),
        ("Quarrington^Odalys", "Odalys^Quarrington"),
        ("Quarrington^Odalys", "Quarrington, Odalys"),
        ("Quarrington^Odalys", "QUARRINGTON ODALYS"),
        ("Quarrington^Odalys", "Quarrington^Odalys^^Mrs^PhD"),
        ("Quarrington^Odalys^Mae", "Quarrington^Odalys Mae"),
        ("García^José", "garcia^jose"),
        ("Müller^Jörg", "Mueller^Joerg"),
        ("Weiß^Anna", "WEISS^ANNA"),
        ("O'Brien^Anne-Marie", "OBrien^Anne Marie"),
        ("Łukasz^Ødegård", "Lukasz^Odegard"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou"),
        ("Yamada^Tarou=山田^太郎", "山田 太郎"),
        ("Иванов^Иван", "ИВАНОВ^ИВАН"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"),
    ],
)
def test_spellings_of_one_name(one, two):
    assert not verdict({"name": one}, {"name": two}).doubts


@pytest.mark.parametrize(
    "names",
    [
        ("Quarrington^Odalys", "Quarrington^Odalys^Mae"),
        ("Quarrington^O", "Quarrington^Odalys"),
        ("Quarrington^Odalys^M", "QUARRINGTON^ODALYS^MAE", "Quarrington^O"),
        ("Quarrington", "Quarrington^Odalys"),
        ("Иванова^А", "Иванова^Анна"),
    ],
)
def test_a_shorter_form_of_a_name_does_not_contradict(names):
    for first in ({}, {"study": "1.2.3.9"}):
        statements = [{"name": names[0], **first}, *({"name": n} for n in names[1:])]
        assert not verdict(*statements).doubts


def test_two_names_that_a_third_agrees_with_contradict_each_other():
    assert verdict({"name": "Kim^A"}, {"name": "Kim^Ann"}, {"name": "Kim^Ada"}).doubts


@pytest.mark.parametrize("filler", ["UNKNOWN", "N/A", "none", "***"])
def test_a_placeholder_is_not_an_issuer(filler):
    result = verdict({"issuer": "CITY"}, {"issuer": filler})
    assert not result.doubts
    assert len({owner.subject for owner in result.owners.values()}) == 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Quarrington^Odalys", "Quarrington^Odette"),
        ("Quarrington^O", "Quarrington^Mae"),
        ("Quarrington^Q", "Quarrington^Mae"),
        ("李明", "李明华"),
        ("Quarrington^Odalys", "Stone^Odalys"),
        ("Kim^Nadia", "Kim^Diana"),
        ("山田^太郎", "山田^次郎"),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^次郎"),
        ("SUBJ 01", "SUBJ 02"),
    ],
)
def test_names_that_contradict(one, two):
    result = verdict({"name": one}, {"name": two})
    assert set(result.doubts.values()) == {("identity in doubt: one study with two names",)}


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ({"patient": "hx-77431"}, True),
        ({"patient": "HX 77431"}, True),
        ({"patient": "HX77431"}, True),
        ({"patient": "00HX_77431"}, True),
        ({"patient": "HX-77431", "issuer": "CITY", "birth": ""}, True),
        ({"patient": "B-1", "others": [ID]}, True),
        ({"patient": "B-1"}, True),  # the same name and birth date
        ({"patient": "ANONYMOUS"}, True),
        ({"patient": "B-1", "birth": ""}, False),
        ({"patient": "hx-77431", "birth": "19910101"}, False),
        ({"patient": "hx-77431", "name": "A^B", "birth": ""}, False),
    ],
)
def test_possible_duplicates_are_listed_and_not_merged(change, listed):
    result = verdict({}, {"study": "1.3", **change})
    assert len({o.subject for o in result.owners.values()}) == 2
    assert not result.doubts
    assert result.counts["people with possible duplicates"] == (2 if listed else 0)
    one, two = sorted({o.subject for o in result.owners.values()})
    duplicates = dict(
        zip(result.table["session"].str[:14], result.table["possible_duplicates"], strict=True)
    )
    assert duplicates == ({one: two, two: one} if listed else {one: "", two: ""})


values = st.fixed_dictionaries(
    {
        "study": st.sampled_from(["1.1", "1.2", "1.3"]),
        "patient": st.sampled_from(["A-1", "B-2", "a1", "", "ANON"]),
        "issuer": st.sampled_from(["", "X", "Y"]),
        "authority": st.sampled_from(["", "", "1.2", "1.3"]),
        "name": st.sampled_from(["Stone^Ann", "Field^Bo", ""]),
        "birth": st.sampled_from(["19630417", "19800101", ""]),
        "sex": st.sampled_from(["F", "M", ""]),
    }
)


@given(
    st.lists(values, max_size=8), st.lists(values, max_size=4), st.randoms(use_true_random=False)
)
def test_new_people_do_not_change_others(base, joining, rng):
    """Other people, with ids and studies of their own, leave pseudonyms and verdicts alone."""
    before = [state(KEY, **v) for v in base]
    others = [
        state(
            KEY,
            **{**v, "study": f"9.{v['study']}", "patient": v["patient"] and f"C-{v['patient']}"},
        )
        for v in joining
    ]
    alone = cross_check(before)
    mixed = [*before, *others, *before]
    rng.shuffle(mixed)
    together = cross_check(mixed)
    assert {s: together.owners[s] for s in alone.owners} == alone.owners
    doubts = {s: r for s, r in together.doubts.items() if s in alone.owners}
    assert doubts == alone.doubts
    # no two patient ids have one pseudonym
    ids = {}
    for owner in together.owners.values():
        assert ids.setdefault(owner.subject, owner) == owner
    # a pseudonym depends only on the key and on what the files state
    studies = {s.session: s.study for s in mixed}
    for session, owner in together.owners.items():
        expected = subject_label(KEY, owner.patient, owner.issuer, studies[session])
        assert owner.subject == expected


@given(st.lists(values, min_size=1, max_size=8))
def test_the_pseudonym_of_a_single_statement_is_that_of_its_id_and_issuer(base):
    for value in base:
        one = state(KEY, **value)
        patient = "" if value["patient"] == "ANON" else value["patient"]
        issuer = value["issuer"] or value["authority"]
        expected = subject_label(KEY, patient, issuer, value["study"])
        assert cross_check([one]).owners[one.session].subject == expected


def test_a_new_contradiction_changes_the_fingerprints_of_that_person_only(tmp_path):
    study(tmp_path / "a", 1)
    study(tmp_path / "b", 2, **OTHER, PatientID="else")
    before = {s.session: s.fingerprint for s in merged(tmp_path)}
    study(tmp_path / "c", 3, PatientSex="M")
    after = {s.session: s.fingerprint for s in merged(tmp_path)}
    changed = {s for s in before if after[s] != before[s]}
    assert changed == {s.session for s in merged(tmp_path) if s.study.endswith(".1")}


def test_a_study_in_two_entries_is_one_session(tmp_path):
    study(tmp_path / "a", 1, 1, IssuerOfPatientID="CITY")
    study(tmp_path / "b", 1, 2)
    named = [(n, inventory.run_entry(tmp_path, n, KEY)) for n in ("a", "b")]
    assert [sorted(g) for g in inventory.groups(named)] == [["a", "b"]]
    # entries travel as JSON
    entries = [Entry.from_dict(json.loads(json.dumps(as_dict(e)))) for _, e in named]
    assert len(inventory.merge(entries, KEY)) == 1


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"PatientID": "A-1\\B-2", "OtherPatientIDs": ["X-1", "X-2"], "PatientSex": None},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "PatientID": "ü-1"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": "GB18030", "PatientName": "王^小东", "IssuerOfPatientID": "医院"},
        {
            "OtherPatientIDsSequence": [item(PatientID="X-9"), item(PatientID="")],
            "IssuerOfPatientIDQualifiersSequence": [item(UniversalEntityID="1.2.3")],
        },
    ],
)
def test_scrub_and_inventory_read_the_same_person(tmp_path, values):
    study(tmp_path / "a", **values)
    for file in walk(tmp_path, "a"):
        head = read(file)
        stated = state(KEY, head.study, head.patient, head.issuer, **head.person)
        assert people.statement(read_file(load(file.path))[1], KEY) == stated


def test_a_damaged_sequence_withholds_no_image(tmp_path):
    study(tmp_path / "a", OtherPatientIDs="X", IssuerOfPatientID="CITY")
    path = next(p for p in (tmp_path / "a").iterdir())
    data = path.read_bytes()
    # replace the issuer by a sequence of qualifiers whose content is not an item
    whole, damaged = b"\x10\0\x21\0LO\x04\0CITY", b"\x10\0\x24\0UN\0\0\x04\0\0\0CITY"
    assert whole in data
    path.write_bytes(data.replace(whole, damaged))
    (file,) = (f for f in walk(tmp_path, "a") if f.path == str(path))
    assert read(file).reason == ""
    assert read(file).person["authority"] == ""


def test_a_participant_of_bids_with_two_sexes(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    for label in ("01", "02"):
        folder = tmp_path / f"sub-{label}" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-{label}_T1w.nii.gz").write_bytes(b"x")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tsex\nsub-01\tF\n01\tmale\nsub-02\tM\nsub-02\tn/a\n")
    series = {s.patient[0]: s.series[0] for s in merged(tmp_path)}
    assert series["sub-01"].status == "review"
    assert series["sub-01"].reasons == ("identity in doubt: one patient id with two sexes",)
    assert series["sub-02"].status == "pass"


def test_command_reports_contradictions_and_writes_the_table(command, tmp_path):
    source, key = tmp_path / "source", tmp_path / "key"
    study(source / "a", 1)
    study(source / "b", 2, PatientSex="M")
    study(source / "c", 3, **OTHER, PatientID="else")
    assert command("key", "new", key).returncode == 0
    out, table = tmp_path / "out", tmp_path / "identity.tsv"
    inside = command("scrub", source, out, "--key", key, "--identity", out / "identity.tsv")
    assert inside.returncode == 1
    assert not out.exists()
    process = command("scrub", source, out, "--key", key, "--identity", table)
    assert process.returncode == 3, process.stderr
    assert "4 identity in doubt: one patient id with two sexes" in process.stdout
    assert "2 files of 1 series scrubbed" in process.stdout
    assert ID not in process.stdout + process.stderr
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    assert tuple(table.read_text().split("\n", 1)[0].split("\t")) == identity.COLUMNS
    assert table.read_text().count(ID) == 2
    # without the contradiction
    shutil.rmtree(source / "b")
    assert command("scrub", source, tmp_path / "out2", "--key", key).returncode == 0


def test_the_table_has_one_line_for_each_statement():
    result = verdict({"name": "A\tB\nC^D"}, {"name": 'Quote"^Q'}, {"patient": "a\r\nb"})
    lines = result.text().splitlines()
    assert len(lines) == 4
    assert {line.count("\t") for line in lines} == {len(identity.COLUMNS) - 1}


def test_spellings_of_dates_and_sexes():
    assert birth_date("1963.04.17") == birth_date("19630417") == "19630417"
    assert [birth_date(t) for t in ("", "19631301", "19000101", "1963", "196304171", "x" * 8)] == [
        ""
    ] * 6
    assert [sex(t) for t in ("F", "female", "f ", "O", "U", "", "w")] == [
        "F",
        "F",
        "F",
        "O",
        "",
        "",
        "w",
    ]
    assert name_words("") == name_words("^^") == name_words("Anonymous") == {}


def test_reasons_hold_no_values():
    rng = random.Random(1)
    texts = ["Stone^Ann", "Field^Bo", "19630417", "19800101", "A-77431", "B-12345", "CITY", "TOWN"]
    rng.shuffle(texts)
    result = verdict(
        {"patient": "A-77431", "issuer": "CITY", "name": "Stone^Ann", "birth": "19630417"},
        {"patient": "B-12345", "issuer": "TOWN", "name": "Field^Bo", "birth": "19800101"},
    )
    reasons_text = " ".join(reason for reasons in result.doubts.values() for reason in reasons)
    assert reasons_text
    assert not [t for t in texts if t in reasons_text]
