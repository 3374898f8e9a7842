"""A wheel that is installed outside the checkout works as the checkout does."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nibabel as nib
import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("efface", "models", "profiles", "rules", "scripts", "Snakefile", "config.yaml")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs a command of a read-only installation, its folder, and the package."""
    folder = tmp_path_factory.mktemp("install")
    project, environment, work = folder / "project", folder / "venv", folder / "work"
    project.mkdir()
    work.mkdir()
    for name in (*PARTS, *FILES):
        ignored = shutil.ignore_patterns("__pycache__")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, project / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, project / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, project)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    pip("--python", python, "install", "--no-deps", "--no-compile", wheel)
    shutil.rmtree(project)
    site = next((environment / "lib").glob("python*/site-packages"))
    # the packages that efface needs are those of the running environment
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for path in (site / "efface", *(site / "efface").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def run(*command):
        more = {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        unset = ("PYTHONPATH", "VIRTUAL_ENV")
        return subprocess.run(
            [str(environment / "bin" / command[0]), *map(str, command[1:])],
            cwd=work,
            env={k: v for k, v in os.environ.items() if k not in unset} | more,
            capture_output=True,
            text=True,
            check=False,
        )

    yield run, work, site / "efface"
    for path in (site / "efface", *(site / "efface").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # a checkout in PYTHONPATH would count as installed
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.run(
        [*command, *map(str, arguments)], env=env, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr


def contents(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in p.parts}


def test_the_installed_package_is_imported(installed):
    run, _, package = installed
    process = run("python", "-c", "import efface; print(efface.__file__)")
    assert process.stdout.strip() == str(package / "__init__.py"), process.stderr
    assert (package / "shipped" / "Snakefile").is_file()
    assert not list(package.rglob("setup.py"))


def test_deface(installed):
    from efface.phantom import phantom

    run, work, _ = installed
    nib.save(phantom(3, spacing=(2, 2, 2))[0], work / "in.nii.gz")
    process = run("efface", "deface", "in.nii.gz", "out.nii.gz")
    assert process.returncode == 0, process.stdout + process.stderr
    assert (work / "out.nii.gz").is_file()


def test_run(installed):
    from efface.phantom import demo_source

    run, work, package = installed
    before = contents(package)
    demo_source(work / "source", people=1, seed=5, mm=3.0)
    process = run("efface", "run", "source", "out", "--cores", "2")
    assert process.returncode == 0, process.stdout + process.stderr
    assert list((work / "out" / "release" / "bids").rglob("*_T1w.nii.gz"))
    assert run("efface", "verify", "out/release").returncode == 0
    # Snakemake itself works with the installed Snakefile
    command = ("-m", "snakemake", "--snakefile", package / "shipped" / "Snakefile", "--cores", "2")
    profile = package / "shipped" / "profiles" / "default"
    config = (f"source={work / 'source'}", f"out={work / 'out'}")
    process = run("python", *command, "--workflow-profile", profile, "--config", *config)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Nothing to be done" in process.stdout + process.stderr
    assert contents(package) == before
