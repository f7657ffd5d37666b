"""The README is true: its commands run, its outputs have these fields, its tables and routes are those of the code."""

import subprocess
import sys
from pathlib import Path

import pytest

from live_service import ServiceProcess
from scripts.readme import README, settings_table
from service.app import create_app
from service.settings import BUNDLED_LOOKUP, BUNDLED_MODEL, Settings

TEXT = README.read_text(encoding="utf-8")


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """Every setting stands in the README with its default and its effect."""
    assert settings_table() in TEXT, "run: python -m scripts.readme --url URL"


def test_every_route_has_an_example() -> None:
    """Each path of the API description occurs in a command of the README."""
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    examples = {"{name}": ("faq", "sample"), "{id}": ("1", "$JOB"), "{model}": ("simbert-mini-zh",)}
    examples["{subject}"] = ("松果（松果商城吉祥物）",)
    for path in paths:
        forms = [path]
        for parameter, values in examples.items():
            forms = [form.replace(parameter, value) for form in forms for value in values]
        assert any(f"http://127.0.0.1:8000{form}" in TEXT for form in forms), path


def test_the_commands_run_and_print_what_is_shown(tmp_path: Path) -> None:
    """With the bundled model and a fresh data folder every curl line succeeds and prints the fields that the README shows."""
    with ServiceProcess(tmp_path / "data", BUNDLED_MODEL, sample=True, lookup_model=BUNDLED_LOOKUP) as live:
        live.until_ready()
        command = [sys.executable, "-m", "scripts.readme", "--url", live.url, "--check"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("target", ["run", "test", "check", "format", "bench", "image"])
def test_make_has_the_targets_that_are_named(target: str) -> None:
    """`make` knows every target that the README and CONTRIBUTING name."""
    root = README.parent
    assert f"\n{target}:" in (root / "Makefile").read_text(encoding="utf-8")
