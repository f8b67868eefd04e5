"""The package as it is built and imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = {"trajectory_tools": "trajectory_tools"} | {
    folder: f"trajectory_tools.{folder}" for folder in ("cli", "data", "recorder", "reports")
}


def test_every_subpackage_is_listed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
        for folder, package in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(settings["packages"])


def test_the_public_names_are_there():
    import trajectory_tools as tt

    assert all(getattr(tt, name) is not None for name in tt.__all__)


def test_analysis_and_reports_import_no_torch():
    code = (
        "import sys, trajectory_tools.metrics, trajectory_tools.run, trajectory_tools.reports\n"
        "import trajectory_tools.problems\n"
        "import trajectory_tools.optimizers, trajectory_tools.symmetry, trajectory_tools.store.session\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lock_names_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--index|--find-links", lock)
    packages = re.findall(r"^[a-z0-9].*", lock, flags=re.MULTILINE)
    hashed = re.findall(r"^[a-z0-9-]+==\S+ .*\\\n    --hash=sha256:[0-9a-f]{64}", lock, flags=re.MULTILINE)
    assert len(packages) == len(hashed) > 50


def test_the_readme_can_be_pasted(tmp_path):
    """Its Python blocks run one after the other, in a new folder."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").exists()
