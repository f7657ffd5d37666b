"""Fill the README: real outputs of its curl lines, and the table of settings.

    python -m scripts.readme --url http://127.0.0.1:8000 [--check]

Every block ``$ curl …`` is run, in order, against a running service with the sample corpus; the block below it becomes what it
printed. ``$JOB`` is the job of the last import. With ``--check`` nothing is written: the commands must succeed, and the fields of
their JSON must be those that the README shows (numbers may differ).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from service.settings import WEIGHTS, Settings, search_cores

README = Path(__file__).resolve().parent.parent / "README.md"
COMMAND = re.compile(r"```console\n\$ (?P<command>.*?)```\n\n(?P<shown>OUTPUT:\w+\n|```\w*\n.*?```\n)", re.DOTALL)
SETTINGS = re.compile(r"(?<=or a line in `.env`.\n\n).*?(?=\n\nThe service listens)", re.DOTALL)


def run_commands(text: str, url: str) -> list[tuple[re.Match[str], str]]:
    """Run each command of the README and return its output as the README shows it."""
    outputs = []
    environment = dict(os.environ)
    for block in COMMAND.finditer(text):
        command = (
            block["command"].replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -sS --fail-with-body", 1)
        )
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise SystemExit(f"{block['command']}\nfailed: {done.stdout}{done.stderr}")
        outputs.append((block, shown(done.stdout)))
        if "/imports" in command:
            environment["JOB"] = json.loads(done.stdout)["job"]
            time.sleep(1.0)  # the README shows the job when it is done
    return outputs


def shown(output: str) -> str:
    """Return an output as a block of the README: JSON on several lines, short values on one."""
    try:
        return f"```json\n{compact(json.loads(output), 0)}\n```\n"
    except json.JSONDecodeError:
        return f"```text\n{output.strip()}\n```\n"


def compact(value: Any, depth: int) -> str:
    """Write JSON with a line for every field whose container does not fit into 120 characters."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + 2 * depth <= 120 or not isinstance(value, dict | list):
        return line
    inner = "  " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {compact(entry, depth + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"
    return "[\n" + ",\n".join(inner + compact(entry, depth + 1) for entry in value) + "\n" + "  " * depth + "]"


def fields(block: str) -> Any:
    """Return the names of all JSON fields of a block, nested, without values."""
    content = block.partition("\n")[2].rpartition("```")[0]
    try:
        return _names(json.loads(content))
    except json.JSONDecodeError:
        return None


def settings_table() -> str:
    """Return the table of settings with their defaults."""
    rows = ["| name | default | effect |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{name.upper()}` | {_default(name, field)} | {field.description} |")
    return "\n".join(rows)


def _default(name: str, field: Any) -> str:
    if field.default_factory is not None:
        return "half the cores, at most 4" if field.default_factory is search_cores else "cores at hand"
    value = field.get_default()
    if isinstance(value, Path) and value.parent == WEIGHTS:
        return f"the bundled `{value.name}`"
    if value is None or str(value) == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _names(entry) for key, entry in value.items() if key not in ("metadata", "jobs", "limits")}
    if isinstance(value, list):
        return _names(value[0]) if value and isinstance(value[0], dict) else None
    return None


def main() -> int:
    """Fill or check the README."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True, help="a running service with a fresh data folder")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    given = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    wrong = []
    for block, output in reversed(run_commands(text, given.url)):
        if given.check and fields(block["shown"]) != fields(output):
            wrong.append(f"{block['command']}\nprinted\n{output}\nbut the README shows\n{block['shown']}")
        start, end = block.span("shown")
        text = text[:start] + output + text[end:]
    if not given.check:
        README.write_text(SETTINGS.sub(lambda _: settings_table(), text), encoding="utf-8")
    print("\n".join(wrong), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
