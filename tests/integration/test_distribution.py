"""What ``make dist`` builds: a wheel with the package and its metadata, and an sdist whose tests can run."""

from __future__ import annotations

import email
import email.message
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HOME = "https://git.example/owner/airflow-provider-d1"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, built from the files that git knows, as a workflow builds them."""
    folder = tmp_path_factory.mktemp("distribution")
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).exists():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target)
    server, repository = HOME.split("/", 3)[:3], HOME.split("/", 3)[3]
    environment = {**os.environ, "GITHUB_SERVER_URL": "/".join(server), "GITHUB_REPOSITORY": repository}
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder / "dist")]
    subprocess.run(command, cwd=folder / "source", env=environment, check=True, timeout=120)
    return folder / "dist"


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_only(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"airflow_provider_d1"}
    assert "airflow_provider_d1/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_metadata_names_author_addresses_and_pythons(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    metadata = metadata_of(wheel)
    assert metadata["Author"]
    assert f"Homepage, {HOME}" in metadata.get_all("Project-URL", [])
    pythons = [value for value in metadata.get_all("Classifier", []) if value.startswith("Programming Language")]
    assert [value.rsplit(" ", 1)[1] for value in pythons if ":: 3." in value] == ["3.11", "3.12", "3.13", "3.14"]


def test_no_link_of_the_readme_is_relative(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    readme = metadata_of(wheel).get_payload()
    assert isinstance(readme, str)
    version = metadata_of(wheel)["Version"]
    assert f"]({HOME}/blob/v{version}/CONTRIBUTING.md)" in readme
    targets = [part.split(")", 1)[0] for part in readme.split("](")[1:]]
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_the_sdist_holds_all_that_its_tests_need(built: Path, tmp_path: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for arguments in (
        ["--collect-only", "tests"],
        ["tests/unit/test_provider_info.py", "tests/unit/test_changelog.py"],
    ):
        finished = subprocess.run(
            [*pytest_command, *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-1000:]
