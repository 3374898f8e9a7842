"""The command line: exit codes, messages instead of tracebacks, no partial output."""

import errno
import json
import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from efface import nifti
from efface.errors import EffaceError
from efface.pseudonym import created, kept_keys, new_key, read_key, rotate_key
from efface.session import as_dict


def ok_image(path, shape=(20, 21, 22), dtype=np.int16):
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.integers(0, 99, shape).astype(dtype), np.eye(4)), path)
    return path


def assert_error(process, code, *words):
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    for word in words:
        assert word in process.stderr


def test_help_names_every_command(command):
    text = command("--help").stdout
    assert all(name in text for name in ("run", "deface", "scrub", "verify", "key"))


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["deface"], ["run", "a"], ["deface", "a", "b", "--device", "x"]]
)
def test_wrong_usage_is_2(command, arguments):
    assert command(*arguments).returncode == 2


def test_missing_image(command, tmp_path):
    assert_error(command("deface", tmp_path / "no.nii.gz", tmp_path / "o.nii.gz"), 1, "no.nii.gz")


def test_a_text_file_is_not_an_image(command, tmp_path):
    (tmp_path / "a.nii.gz").write_text("no image")
    assert_error(
        command("deface", tmp_path / "a.nii.gz", tmp_path / "o.nii.gz"), 1, "not a readable"
    )
    assert not (tmp_path / "o.nii.gz").exists()


def test_wrong_shape(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz", (20, 20))
    assert_error(command("deface", image, tmp_path / "o.nii.gz"), 1, "3D or 4D", "(20, 20)")


def test_truncated_image(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    image.write_bytes(image.read_bytes()[:-2000])
    assert_error(command("deface", image, tmp_path / "o.nii.gz"), 1, "a.nii.gz")


def test_a_missing_output_folder_is_an_error(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    assert_error(command("deface", image, tmp_path / "no" / "o.nii.gz"), 1, "no such folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert_error(command("deface", image, locked / "o.nii.gz"), 1, "cannot be written")


def test_no_space(tmp_path, monkeypatch):

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    image = nifti.load(ok_image(tmp_path / "a.nii.gz"))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Exception, match="No space left"):
        nifti.save(image, tmp_path / "o.nii.gz")
    assert not list(tmp_path.glob(".*part"))


def test_the_error_for_an_unknown_method_names_the_methods(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    process = command("deface", image, tmp_path / "o.nii.gz", "--method", "magic")
    assert_error(process, 1, "magic", "noise")


@pytest.mark.slow
def test_noise_is_not_a_head(command, tmp_path):
    rng = np.random.default_rng(0)
    v = rng.normal(500, 100, (60, 60, 60)).astype(np.int16)
    nib.save(nib.Nifti1Image(v, np.diag([3.0, 3, 3, 1])), tmp_path / "a.nii.gz")
    process = command("deface", tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    assert process.returncode in (1, 3)
    assert "head" in process.stderr
    assert not (tmp_path / "o.nii.gz").exists()


@pytest.fixture(scope="module")
def bids_run(command, tmp_path_factory):
    """A BIDS source of two people without a usable image, and its results."""
    source = tmp_path_factory.mktemp("people") / "source"
    for label in ("01", "Mara2"):
        image = source / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz"
        image.parent.mkdir(parents=True)
        image.write_text("no image")
    out = source.parent / "out"
    return source, out, command("run", source, out, "--cores", "1")


@pytest.mark.slow
def test_a_run_without_released_scans_returns_3(bids_run):
    _, _, process = bids_run
    assert process.returncode == 3, process.stdout + process.stderr
    assert process.stdout.splitlines()[-1].startswith("nothing was released: not converted (2)")


@pytest.mark.slow
@pytest.mark.parametrize("labels", [["01"], ["sub-01"], ["pseudonym"], ["bare"], ["01", "Mara2"]])
def test_participants_are_chosen_by_label_or_pseudonym(command, bids_run, labels):
    from efface.workflow.sessions import sessions

    _, out, _ = bids_run
    table = out / "restricted" / "inventory" / "sessions.tsv"
    people = (out / "restricted" / "identity.tsv").read_text().splitlines()[1:]
    pseudonyms = {line.split("\t")[2]: line.partition("_")[0] for line in people}
    words = {"pseudonym": pseudonyms["sub-01"], "bare": pseudonyms["sub-01"].removeprefix("sub-")}
    chosen = sessions(table, [words.get(t, t) for t in labels])
    assert {s.split("_")[0] for s in chosen} == {
        pseudonyms["sub-01"],
        *([pseudonyms["sub-Mara2"]] * (len(labels) - 1)),
    }


@pytest.mark.slow
def test_an_unknown_participant_label_is_an_error(command, bids_run):
    source, out, _ = bids_run
    process = command("run", source, out, "--cores", "1", "--participant-label", "01", "nobody")
    assert_error(
        process, 1, "participant nobody: nobody in the source has this label", "identity.tsv"
    )
    # labels of the source stay in the restricted zone
    for zone in ("audit", "release"):
        for path in (out / zone).rglob("*"):
            assert path.is_dir() or b"Mara2" not in path.read_bytes()


@pytest.mark.slow
def test_a_source_without_any_image(command, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("x")
    more = ("--cores", "1", "--ocr", "never", "--layout", "derivative")
    process = command("run", tmp_path / "source", tmp_path / "out", *more)
    assert process.returncode == 3
    assert "nothing was released: no MR image was found" in process.stdout
    config = (tmp_path / "out" / "restricted" / "config.yaml").read_text()
    assert "ocr: never" in config
    assert "layout: derivative" in config


@pytest.mark.slow
def test_deface_reports_the_fields_that_it_removed_from_the_header(command, tmp_path):
    from efface.phantom import phantom

    img, _ = phantom(3, spacing=(2, 2, 2))
    img.header["descrip"] = b"DOE^JANE 19610203"
    img.set_qform(np.diag([1.9, 2, 2.1, 1]), 1)
    img.set_sform(img.affine, 4)
    nib.save(img, tmp_path / "a.nii.gz")
    out, mask, labels = (tmp_path / f"{n}.nii.gz" for n in ("o", "m", "l"))
    arguments = ("deface", tmp_path / "a.nii.gz", out, "--mask", mask, "--labels", labels)
    process = command(*arguments)
    assert process.returncode == 0, process.stderr
    assert "header: removed descrip (keep with --keep-header)" in process.stdout
    assert "DOE" not in process.stdout + process.stderr
    before = nib.load(tmp_path / "a.nii.gz")
    for path in (out, mask, labels):
        after = nib.load(path)
        assert b"DOE" not in after.header.binaryblock
        for field in nifti.GEOMETRY:
            assert after.header[field].tobytes() == before.header[field].tobytes(), field
    process = command(*arguments, "--keep-header")
    assert "header" not in process.stdout
    assert nib.load(out).header["descrip"] == b"DOE^JANE 19610203"
    assert b"DOE" not in nib.load(mask).header.binaryblock


def test_run_without_source(command, tmp_path):
    assert_error(command("run", tmp_path / "no", tmp_path / "out"), 1, "no such folder")
    assert not (tmp_path / "out").exists()


def test_scrub_without_a_key_names_the_command_that_makes_one(command, tmp_path):
    (tmp_path / "in").mkdir()
    process = command("scrub", tmp_path / "in", tmp_path / "out", "--key", tmp_path / "key")
    assert_error(process, 1, "efface key new")


@pytest.mark.parametrize(
    "names", [["a,b"], ["a", "b"], ["a", "--retain", "b"]], ids=["comma", "space", "twice"]
)
def test_all_values_of_an_option_are_used(command, tmp_path, names):
    options = {"a": "dates-full", "b": "dates-shifted", "a,b": "dates-full,dates-shifted"}
    (tmp_path / "in").mkdir()
    command("key", "new", tmp_path / "key")
    retain = ["--retain", *(options.get(t, t) for t in names)]
    process = command(
        "scrub", tmp_path / "in", tmp_path / "out", "--key", tmp_path / "key", *retain
    )
    assert_error(process, 1, "exclude each other")


def test_scrub_that_writes_nothing_returns_3(command, tmp_path):
    (tmp_path / "in").mkdir()
    command("key", "new", tmp_path / "key")
    where = (tmp_path / "in", tmp_path / "out", "--key", tmp_path / "key")
    assert_error(command("scrub", *where), 3, "holds no files")
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as archive:
        archive.writestr("a.dcm", bytes(200))
    process = command("scrub", *where)
    assert_error(process, 3, "nothing was written")
    assert "a zip archive; unpack it first" in process.stdout


def test_key_is_private_and_never_overwritten(command, tmp_path):
    key = tmp_path / "key"
    first = command("key", "new", key)
    assert first.returncode == 0
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text()
    assert secret.strip() not in first.stdout + first.stderr
    assert_error(command("key", "new", key), 1, "never overwrites")
    assert key.read_text() == secret


def test_key_show_prints_fingerprint_and_date_but_not_the_key(command, tmp_path):
    key = tmp_path / "key"
    new_output = command("key", "new", key).stdout
    show_output = command("key", "show", key).stdout
    assert read_key(key).fingerprint in new_output
    assert f"{read_key(key).fingerprint}, created {created(key)}" in show_output
    assert key.read_text().split()[0] not in new_output + show_output


def test_a_key_without_a_date_has_the_date_of_its_file(tmp_path):
    key = tmp_path / "key"
    key.write_text("ab" * 32 + "\n")
    key.chmod(0o600)
    os.utime(key, (86400 * 365, 86400 * 365))
    assert created(key).isoformat() == "1971-01-01"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644])
def test_every_command_rejects_a_key_that_others_can_read(command, tmp_path, mode):
    key = tmp_path / "key"
    command("key", "new", key)
    key.chmod(mode)
    (tmp_path / "in").mkdir()
    for words in (
        ("key", "show", key),
        ("key", "rotate", key),
        ("scrub", tmp_path / "in", tmp_path / "o", "--key", key),
    ):
        assert_error(command(*words), 1, f"chmod 600 {key}")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\0", b"ab" * 31, b"zz" * 32, b"ab" * 33, b"\n" + b"ab" * 32],
)
def test_an_invalid_key_is_an_error(command, tmp_path, content):
    key = tmp_path / "key"
    key.write_bytes(content)
    key.chmod(0o600)
    for verb in ("show", "rotate"):
        assert_error(command("key", verb, key), 1, "not an efface key")
    assert key.read_bytes() == content
    assert list(tmp_path.iterdir()) == [key]


def test_errors_of_the_key_commands_have_messages(command, tmp_path):
    assert_error(command("key", "show", tmp_path / "no"), 1, "cannot be read")
    assert_error(command("key", "show", tmp_path), 1, "cannot be read")
    (tmp_path / "file").touch()
    assert_error(command("key", "new", tmp_path / "file" / "key"), 1, "file")
    assert command("key").returncode == 2
    assert command("key", "lookup", "sub-a").returncode == 2
    key = tmp_path / "key"
    key.write_text("ab" * 32 + "\n# created someday\n")
    key.chmod(0o600)
    assert_error(command("key", "show", key), 1, "has no valid date")


def test_rotate_keeps_the_old_key_beside_the_new(command, tmp_path):
    key = tmp_path / "key"
    command("key", "new", key)
    old = read_key(key)
    process = command("key", "rotate", key)
    assert process.returncode == 0
    new = read_key(key)
    old_path = tmp_path / f"key.{old.fingerprint}.old"
    assert read_key(old_path).secret == old.secret != new.secret
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in (key, old_path))
    assert {p.name for p in tmp_path.iterdir()} == {key.name, old_path.name}
    for word in (old.fingerprint, new.fingerprint, old_path.name, "pseudonym"):
        assert word in process.stdout
    assert old.secret.hex() not in process.stdout
    assert {k.fingerprint for k in kept_keys(key)} == {old.fingerprint, new.fingerprint}


def test_a_second_copy_of_the_old_key_is_not_overwritten(tmp_path):
    key = tmp_path / "key"
    old = new_key(key)
    copy = tmp_path / f"key.{old.fingerprint}.old"
    copy.write_text("precious")
    with pytest.raises(EffaceError, match="move it to another folder"):
        rotate_key(key)
    assert copy.read_text() == "precious"
    assert read_key(key) == old
    assert not list(tmp_path.glob(".key*"))


@pytest.fixture
def restricted_run(tmp_path):
    """Results of a run that stopped after the inventory: folder, key, and session."""
    from small_dicom import write

    from efface import inventory

    source, out = tmp_path / "source", tmp_path / "out"
    write(source / "QUILLFEATHER", 1, PatientID="MRN-7741902")
    key = new_key(out / "restricted" / "key")
    entry = inventory.run_entry(source, "QUILLFEATHER", key)
    (session,) = inventory.merge([entry], key)
    place = out / "restricted" / "inventory" / "sessions" / f"{session.session}.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(as_dict(session)))
    return out, key, session


def test_lookup_prints_the_person_and_is_logged(command, restricted_run):
    out, key, session = restricted_run
    subject, visit = session.session.split("_")
    series = session.series[0]
    import pydicom

    (instance,) = (pydicom.dcmread(f).SOPInstanceUID for f in series.files)
    pseudonyms = [subject, visit, session.session, series.series]
    pseudonyms += [key.uid(u) for u in (session.study, series.uid, instance)]
    for pseudonym in pseudonyms:
        process = command("key", "lookup", pseudonym, out)
        assert process.returncode == 0, process.stderr
        assert "MRN-7741902" in process.stdout
        assert f"{key.weeks(subject)} weeks" in process.stdout
        assert session.study in process.stdout
    assert instance in process.stdout
    assert_error(command("key", "lookup", "sub-zzzzzzzzzz", out), 1, "pseudonym not found")
    log = out / "restricted" / "lookups.tsv"
    assert log.stat().st_mode & 0o777 == 0o600
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    assert lines[0] == ["time", "user", "pseudonym", "key", "outcome"]
    assert [line[2] for line in lines[1:]] == [*pseudonyms, "sub-zzzzzzzzzz"]
    assert [line[4] for line in lines[1:]] == ["found"] * len(pseudonyms) + ["not found"]
    assert all(line[1] and line[3] == key.fingerprint for line in lines[1:])
    assert "7741902" not in log.read_text()


def test_lookup_after_a_rotation_of_the_key(command, restricted_run):
    out, old, session = restricted_run
    rotate_key(out / "restricted" / "key")
    subject = session.subject
    assert "MRN-7741902" in command("key", "lookup", subject, out).stdout
    # and after another run with the new key
    from efface import inventory

    new = read_key(out / "restricted" / "key")
    path = next((out / "restricted" / "inventory" / "sessions").iterdir())
    path.unlink()
    source = out.parent / "source"
    (second,) = inventory.merge([inventory.run_entry(source, "QUILLFEATHER", new)], new)
    path.with_name(f"{second.session}.json").write_text(json.dumps(as_dict(second)))
    assert second.subject != subject
    for pseudonym in (subject, second.subject, old.uid(session.study)):
        assert "MRN-7741902" in command("key", "lookup", pseudonym, out).stdout


def test_lookup_needs_the_key_of_the_run_and_a_log(command, restricted_run, tmp_path):
    out, _, session = restricted_run
    other = tmp_path / "other"
    new_key(other)
    process = command("key", "lookup", session.subject, out, "--key", other)
    assert_error(process, 1, "made with the key", "--key")
    assert "7741902" not in process.stdout + process.stderr
    assert_error(command("key", "lookup", "Quillfeather", out), 1, "not a pseudonym")
    assert_error(command("key", "lookup", session.subject, tmp_path), 1, "no results")
    (out / "restricted" / "lookups.tsv").mkdir()
    process = command("key", "lookup", session.subject, out)
    assert_error(process, 1, "must be logged")
    assert "7741902" not in process.stdout
    path = next((out / "restricted" / "inventory" / "sessions").iterdir())
    path.write_text("[1]")
    assert_error(command("key", "lookup", session.subject, out), 1, "inventory")


def test_an_internal_error_gives_one_line_or_a_traceback(monkeypatch, capsys, tmp_path):
    from efface import cli

    def fail(*_arguments):
        raise ZeroDivisionError("not expected")

    monkeypatch.setattr(cli, "_key_show", fail)
    monkeypatch.delenv("EFFACE_DEBUG", raising=False)
    assert cli.main(["key", "show", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "efface: internal error (ZeroDivisionError: not expected);"
        " set EFFACE_DEBUG=1 for a traceback\n"
    )
    monkeypatch.setenv("EFFACE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["key", "show", str(tmp_path)])


def test_every_argument_has_help_and_every_option_its_default():
    import argparse

    from efface.cli import _parser

    def parsers(parser):
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    yield from parsers(sub)

    for parser in parsers(_parser()):
        for action in parser._actions:
            if action.dest in ("help", "version") or isinstance(action, argparse._SubParsersAction):
                continue
            assert action.help, (parser.prog, action.dest)
            if action.option_strings:
                assert "(default: " in action.help or "(required)" in action.help, action.dest
                if isinstance(action.default, str):
                    assert f"(default: {action.default})" in action.help, action.dest
