"""The wheel holds what the tree holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

SUFFIXES = {".py", ".yaml", ".safetensors", ".j2", ".css", ".js", ".typed"}


def test_the_wheel_has_every_file_of_both_packages(repository: Path, tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    source = tmp_path / "source"
    for name in tracked:  # a copy, so that building leaves no trace in the tree
        if (repository / name).is_file() and not name.startswith(("tests/", "reports/")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((repository / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        name.removeprefix("solvers/")
        for name in tracked
        if name.startswith(("invbench/", "solvers/invbench_solvers/")) and Path(name).suffix in SUFFIXES
    }
    assert packed == expected
