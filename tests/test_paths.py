"""The paths of a command are compared before anything is read or written."""

import os
from pathlib import Path

import pytest
from small_dicom import write

from efface import paths
from efface.cli import main
from efface.errors import UsageError
from efface.paths import Argument
from efface.pseudonym import new_key
from efface.workflow import settings


def same(path, tmp_path):
    return path


def dotted(path, tmp_path):
    (path.parent / "x").mkdir(exist_ok=True)
    return path.parent / "x" / ".." / path.name


def relative(path, tmp_path):
    return Path(os.path.relpath(path))


def link(path, tmp_path):
    out = tmp_path / "link.nii.gz"
    out.symlink_to(path)
    return out


def link_to_link(path, tmp_path):
    first = tmp_path / "first.nii.gz"
    first.symlink_to(os.path.relpath(path, tmp_path))
    return link(first, tmp_path)


def link_to_folder(path, tmp_path):
    (tmp_path / "other").symlink_to(path.parent)
    return tmp_path / "other" / path.name


def hard_link(path, tmp_path):
    out = tmp_path / "hard.nii.gz"
    path.touch()
    os.link(path, out)
    return out


SPELLINGS = (same, dotted, relative, link, link_to_link, link_to_folder, hard_link)
PAIRS = (
    ("OUT", "IN"),
    ("--labels", "IN"),
    ("--mask", "IN"),
    ("--labels", "OUT"),
    ("--mask", "OUT"),
    ("--mask", "--labels"),
)


def contents(folder):
    return {
        p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")
    }


def assert_rejected(arguments, capsys, *words):
    assert main([str(a) for a in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    for word in words:
        assert word in output.err


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("write_role", "other_role"), PAIRS)
def test_deface_rejects_an_output_that_is_another_of_its_files(
    tmp_path, capsys, write_role, other_role, spelling
):
    work = tmp_path / "work"
    work.mkdir()
    (work / "in.nii.gz").write_bytes(b"the only copy")
    arguments = {
        "IN": work / "in.nii.gz",
        "OUT": work / "out.nii.gz",
        "--labels": work / "l.nii.gz",
        "--mask": work / "m.nii.gz",
    }
    arguments[write_role] = spelling(arguments[other_role], tmp_path)
    before = contents(tmp_path)
    options = [w for role in ("--labels", "--mask") for w in (role, arguments[role])]
    words = (write_role, other_role, "overwrit")
    assert_rejected(["deface", arguments["IN"], arguments["OUT"], *options], capsys, *words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", [".hdr", ".img", ".HDR", ".img.gz", ".hdr.gz"])
@pytest.mark.parametrize("target", [".hdr", ".img"])
def test_both_files_of_an_input_pair_are_rejected_as_output(tmp_path, capsys, suffix, target):
    upper, gz = suffix.isupper(), suffix.endswith(".gz")
    names = {e: "a" + (e.upper() if upper else e) + ".gz" * gz for e in (".hdr", ".img")}
    for name in names.values():
        (tmp_path / name).write_bytes(b"the only copy")
    (tmp_path / "out.nii.gz").symlink_to(names[target])
    out = tmp_path / "out.nii.gz"
    assert_rejected(["deface", tmp_path / f"a{suffix}", out], capsys, "OUT", names[target])


def test_outputs_whose_names_differ_only_in_case_are_rejected(tmp_path):
    one, other = tmp_path / "Mask.nii.gz", tmp_path / "mask.nii.gz"
    with pytest.raises(UsageError, match="the same"):
        paths.check([], [Argument("--mask", one), Argument("--labels", other)])
    one.touch()
    if not other.exists():  # this file system is case-sensitive
        paths.check([Argument("IN", one)], [Argument("OUT", other)])


def test_different_files_are_accepted(tmp_path):
    (tmp_path / "a.hdr").touch()
    (tmp_path / "a.img").touch()
    writes = [Argument(n, tmp_path / n) for n in ("a.nii.gz", "ab.nii.gz", "b.nii")]
    paths.check([Argument("IN", tmp_path / "a.hdr")], writes)


def test_an_output_that_is_not_a_file_is_rejected(tmp_path, capsys):
    image = tmp_path / "in.nii.gz"
    image.write_bytes(b"the only copy")
    (tmp_path / "folder.nii.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    for name, word in (("folder", "folder"), ("pipe", "pipe"), ("loop", "loop")):
        out = tmp_path / f"{name}.nii.gz"
        assert_rejected(["deface", image, out], capsys, word)
        assert_rejected(["deface", image, tmp_path / "o.nii.gz", "--mask", out], capsys, word)
    assert_rejected(["deface", image, tmp_path / "o.hdr"], capsys, ".nii.gz")
    assert_rejected(
        ["deface", image, tmp_path / "a.nii", "--mask", tmp_path / "a.nii" / "m.nii"], capsys
    )


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "source" / "person", 1)
    return tmp_path / "source"


def into_source(source, tmp_path):
    return source / "out"


def deep(source, tmp_path):
    return source / "person" / "not" / "there"


def around(source, tmp_path):
    return source.parent


def through_link(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    return tmp_path / "link" / "person" / "out"


def through_dots(source, tmp_path):
    return tmp_path / "no" / ".." / "source" / "out"


def itself(source, tmp_path):
    return source


PLACES = (into_source, deep, around, through_link, through_dots, itself)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["run", "scrub"])
def test_source_and_results_inside_each_other_are_rejected(
    tmp_path, capsys, source, command, place, tmp_path_factory
):
    out = place(source, tmp_path)
    key = tmp_path_factory.mktemp("key") / "key"
    new_key(key)
    before = contents(tmp_path)
    assert_rejected([command, source, out, "--key", key], capsys)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("part", ["release", "release/bids", "audit", "restricted/convert"])
def test_results_with_a_link_into_the_source_are_rejected(tmp_path, capsys, source, part):
    link = tmp_path / "out" / part
    link.parent.mkdir(parents=True)
    link.symlink_to(source)
    before = contents(source)
    assert_rejected(["run", source, tmp_path / "out"], capsys, part)
    assert contents(source) == before


@pytest.mark.parametrize("option", ["--key", "--accept"])
@pytest.mark.parametrize(
    "part", ["release", "release/key", "audit/a.tsv", "restricted/audit/a", "restricted/files.tsv"]
)
def test_an_input_in_a_folder_that_a_run_deletes_is_rejected(
    tmp_path, capsys, source, option, part
):
    assert_rejected(
        ["run", source, tmp_path / "out", option, tmp_path / "out" / part], capsys, part
    )
    assert not (tmp_path / "out").exists()


def test_key_and_accepted_scans_may_lie_beside_the_results(tmp_path, source):
    out = tmp_path / "out"
    for key, accept in (("restricted/key", "accept.tsv"), ("key", "restricted/accept.tsv")):
        config = {"source": source, "out": out, "key": out / key, "accept": out / accept}
        settings.compare_paths(config)


def test_a_key_inside_the_output_of_scrub_is_rejected(tmp_path, capsys, source):
    key = tmp_path / "out" / "key"
    new_key(key)
    assert_rejected(["scrub", source, tmp_path / "out", "--key", key], capsys, "--key")
    assert key.exists()


def test_scrub_writes_through_a_link_to_an_empty_folder(tmp_path, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to("empty")
    new_key(tmp_path / "key")
    arguments = ["scrub", source, tmp_path / "out", "--key", tmp_path / "key"]
    assert main([str(w) for w in arguments]) == 0
    assert list((tmp_path / "empty").rglob("*.dcm"))
