"""Settings: checks before anything runs, folders of a run, and its sessions."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from efface.errors import EffaceError
from efface.workflow import restricted, sessions, settings

ROOT = Path(__file__).resolve().parents[1]


def config(**more):
    return yaml.safe_load((ROOT / "config.yaml").read_text()) | more


def test_shipped_config_is_valid():
    settings.check(config())


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonsense": 1},
        {"features": ["chin"]},
        {"method": "magic"},
        {"device": "tpu"},
        {"retain": ["everything"]},
        {"source": "somewhere"},
        {"participants": [" "]},
    ],
)
def test_a_wrong_setting_is_rejected(wrong):
    with pytest.raises(EffaceError, match=r"setting|option"):
        settings.check(config(**wrong))


def test_lists_may_be_typed_with_commas():
    c = config(features="eyes,nose")
    settings.check(c)
    assert c["features"] == ["eyes", "nose"]


def test_results_inside_the_source_are_rejected(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(EffaceError, match="inside each other"):
        restricted.prepare(config(source=tmp_path / "s", out=tmp_path / "s" / "out"))


def test_the_restricted_zone_is_private_and_the_key_is_kept(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_text("x")
    c = config(source=tmp_path / "s", out=tmp_path / "o")
    run = restricted.prepare(c, lock=False)
    assert (tmp_path / "o" / "restricted").stat().st_mode & 0o777 == 0o700
    assert Path(run.key).stat().st_mode & 0o777 == 0o600
    assert restricted.prepare(c, lock=False) == run


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_text("x")
    c = config(source=tmp_path / "s", out=tmp_path / "o")
    key = Path(restricted.prepare(c, lock=False).key)
    (tmp_path / "o" / "restricted" / "inventory").mkdir()  # a run had begun
    key.unlink()
    with pytest.raises(EffaceError, match="another pseudonym"):
        restricted.prepare(c, lock=False)
    assert not key.exists()


def test_one_run_at_a_time(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_text("x")
    c = config(source=str(tmp_path / "s"), out=str(tmp_path / "o"))
    code = (
        "from efface.workflow import restricted;"
        f"restricted.prepare({c!r}); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(EffaceError, match="another efface run"):
            restricted.prepare(c)
        other.kill()
        other.wait()
        restricted.prepare(c)


def test_conda_names_the_packages_of_pyproject():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert conda == wanted


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("DOE^JANE  7", {"sub-aa"}),
        (" DOE^JANE 7 ", {"sub-aa"}),
        ("1", {"sub-bb"}),
        ("sub-1", {"sub-bb"}),
        ("10", {"sub-cc"}),
        ("cc", {"sub-cc"}),
        ('"quoted', {"sub-dd"}),
        ("1,", set()),
        ("SUB-1", set()),
    ],
)
def test_labels_of_people_match_as_a_whole(tmp_path, typed, expected):
    from efface.inventory.identity import Statement, cross_check

    people = {"sub-aa": "DOE^JANE  7", "sub-bb": "sub-1", "sub-cc": "10", "sub-dd": '"quoted'}
    stated = {Statement(f"{s}_ses-x", f"study {s}", p, "x") for s, p in people.items()}
    (tmp_path / "identity.tsv").write_text(cross_check(stated).text())
    table = tmp_path / "inventory" / "sessions.tsv"
    table.parent.mkdir()
    rows = "".join(f"{s}_ses-x\t{s}\t0\n" for s in people)
    table.write_text("session\tsubject\tfingerprint\n" + rows)
    if not expected:
        with pytest.raises(EffaceError, match="nobody in the source has this label"):
            sessions.sessions(table, [typed])
    else:
        assert {s.split("_")[0] for s in sessions.sessions(table, [typed])} == expected
