"""docs/testing.rst: its blocks run, the programs on it are those in examples/, and their tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_docs_pages import DOCS, blocks, run

ROOT = DOCS.parent
PAGE = DOCS / "testing.rst"
TESTED = ["examples/test_cron_job.py", "examples/test_flask_app.py"]
CAPTION = re.compile(r"\.\. code-block:: python\n   :caption: (\S+)\n\n((?:   .*\n|\n)+)")


def captioned() -> dict[str, str]:
    """The programs on the page, by the file that they are said to be."""
    found = CAPTION.findall(PAGE.read_text("utf-8"))
    return {name: textwrap.dedent(code).strip() for name, code in found}


def test_the_blocks_run_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, in an empty folder, without a mock around them; the programs run by themselves."""
    programs = set(captioned().values())
    page = ModuleType("page_testing")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    found = list(blocks(PAGE.read_text("utf-8"), "python"))
    ours = [block for block in found if block.code.strip() not in programs]
    assert (len(found) - len(ours), len(ours)) == (4, 9)
    for block in ours:
        run(block, PAGE, vars(page))


def test_the_programs_on_the_page_are_the_examples() -> None:
    """Line by line, but for the docstring above."""
    shown = captioned()
    assert sorted(shown) == [
        "examples/cron_job.py",
        "examples/flask_app.py",
        "examples/test_cron_job.py",
        "examples/test_flask_app.py",
    ]
    for name, code in shown.items():
        _, _, rest = (ROOT / name).read_text("utf-8").split('"""', 2)
        assert code == rest.strip(), name


@pytest.mark.parametrize("name", TESTED)
@pytest.mark.parametrize("how", [["-m", "pytest", "-p", "no:cacheprovider"], []], ids=["pytest", "a program"])
def test_the_tests_of_the_examples_pass(how: list[str], name: str, tmp_path: Path) -> None:
    """As a user would run them, from any folder, under warnings as errors, all of them."""
    expected = (ROOT / name).read_text("utf-8").count("\ndef test_")
    done = subprocess.run(
        [sys.executable, "-W", "error", *how, str(ROOT / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"\b{expected} passed", done.stdout)


def test_what_the_page_names_is_there() -> None:
    """Fixtures, and members of the provider."""
    from oauth2broker.testing import FakeProvider, pytest_plugin

    text = PAGE.read_text("utf-8")
    for name in set(re.findall(r"\bprovider\.([a-z_]+)\b", text.split("A Flask view")[0])) - {"descriptor"}:
        assert hasattr(FakeProvider, name) or name in {"mock", "presets"}, name
    for name in re.findall(r"^``((?:oauth2|loopback)_\w+)``", text, re.MULTILINE):
        assert hasattr(pytest_plugin, name), name
