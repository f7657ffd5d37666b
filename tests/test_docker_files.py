"""The files that make a container: what they name exists, and what they promise is written in them, engine or not.

What only an engine can show (the image builds, answers, stops, keeps its data) is in DECISIONS.md.
"""

import fnmatch
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {f"MOVERANK_{name.upper()}" for name in Settings.model_fields}
Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """The Dockerfile as stage name -> instructions (word, rest), in order; "" holds what stands before the first."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[Instruction]] = {"": []}
    name = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        found[name].append((word, rest))
    return found


def final(target: str) -> list[Instruction]:
    """Everything that makes a target's last stage: the instructions of `runtime`, then its own."""
    found = stages()
    assert found[target][0] == ("FROM", f"runtime AS {target}")
    return found["runtime"] + found[target]


def environment(instructions: list[Instruction]) -> dict[str, str]:
    """What the ENV lines set."""
    pairs = [pair.split("=", 1) for word, rest in instructions if word == "ENV" for pair in rest.split()]
    return {name: value for name, value in pairs}


def only(instructions: list[Instruction], word: str) -> str:
    """The argument of the one instruction of this kind."""
    (argument,) = [rest for candidate, rest in instructions if candidate == word]
    return argument


def compose() -> dict[str, Any]:
    """The services of docker-compose.yml, its anchors resolved."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def ours() -> list[dict[str, Any]]:
    """The services of docker-compose.yml that are built here."""
    return [service for service in compose().values() if "build" in service]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build: the last pattern that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            parts = Path(path).parts
            prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
            bare = pattern.removeprefix("!").removeprefix("**/")
            names = [*prefixes, *parts] if "**/" in pattern else prefixes
            if any(fnmatch.fnmatchcase(name, bare) for name in names):
                sent = pattern.startswith("!")
    return sent


def test_copied_files_exist_and_reach_the_build() -> None:
    """Whatever the Dockerfile copies from the repository is there, and .dockerignore does not hold it back."""
    sources = [
        source
        for instructions in stages().values()
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "models", "service", "scripts"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), source


def test_declared_packages_reach_the_build() -> None:
    """Every package that pyproject.toml installs, and the weights and samples inside them, are sent to the build."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in declared["tool"]["setuptools"]["packages"]:
        assert is_sent(f"{package.replace('.', '/')}/__init__.py")
    for path in (Settings.model_fields["model"].default / "model.safetensors").relative_to(ROOT).parents:
        assert path == Path() or is_sent(str(path))
    assert is_sent("service/samples/faq.jsonl")
    assert is_sent(declared["project"]["readme"])
    assert set(declared["project"]["optional-dependencies"]) >= {"cpu", "gpu"}


@pytest.mark.parametrize(
    "path", [".env", ".git/config", "data/store.db", ".venv/bin/python", "models/__pycache__/encoder.cpython-311.pyc"]
)
def test_private_and_derived_files_stay_out(path: str) -> None:
    """Secrets, data, environments and compiled files never enter an image."""
    assert not is_sent(path)


def test_plain_build_is_the_cpu_image() -> None:
    """A build that names no target makes the CPU image: it is the last stage."""
    assert list(stages())[-1] == "cpu"


def test_base_image_is_an_argument() -> None:
    """One argument names the base image of every stage that has one."""
    found = stages()
    assert found[""] == [("ARG", "PYTHON_IMAGE=python:3.11-slim-bookworm")]
    bases = {instructions[0][1].split(" AS ")[0] for name, instructions in found.items() if name}
    assert bases == {"${PYTHON_IMAGE}", "build", "runtime"}


def test_dependencies_come_before_the_source() -> None:
    """The layer of the dependencies sees the requirement list alone; the project is laid over it afterwards."""
    for target in ("cpu", "gpu"):
        copied = [rest for word, rest in stages()[f"build-{target}"] if word == "COPY"]
        assert copied == [f"--from=requirements /requirements/{target}.txt ./"]
        layers = [rest.split()[0] for word, rest in stages()[target] if word == "COPY"]
        assert layers == [f"--from=build-{target}", "--from=package"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_image_runs_as_an_ordinary_user(target: str) -> None:
    """The process is user 10001, and nothing after that line becomes root again."""
    assert only(final(target), "USER") == "10001:10001"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_last_stage_holds_no_installer(target: str) -> None:
    """The base image's pip and setuptools are removed, and the last stage installs nothing."""
    runs = " ".join(rest for word, rest in final(target) if word == "RUN")
    assert "pip uninstall" in runs
    assert not re.search(r"\b(pip|apt-get|uv)\b[^&|;]*\binstall\b", runs)


def test_image_serves_on_its_volume_and_stops_on_sigterm() -> None:
    """The image starts the service by exec, keeps its data on the volume and is asked to stop by SIGTERM."""
    instructions = final("cpu")
    assert json.loads(only(instructions, "CMD")) == ["moverank", "serve"]
    assert only(instructions, "STOPSIGNAL") == "SIGTERM"
    assert environment(instructions)["MOVERANK_DATA_DIR"] == only(instructions, "VOLUME") == "/data"
    assert environment(instructions)["MOVERANK_PORT"] == only(instructions, "EXPOSE") == "8000"
    assert environment(instructions)["MOVERANK_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_nothing_leaves_the_container(target: str) -> None:
    """Neither a model hub nor ONNX Runtime's telemetry is asked or told anything from inside an image."""
    assert {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}.items() <= environment(final(target)).items()


def test_health_is_readiness() -> None:
    """HEALTHCHECK asks /readyz in a program that Python accepts, and Compose asks the same."""
    check = only(final("cpu"), "HEALTHCHECK")
    command = json.loads(check.split("CMD", 1)[1])
    assert command[:2] == ["python", "-c"]
    assert "'GET', '/readyz'" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")
    for service in ours():
        assert service["healthcheck"]["test"] == ["CMD", *command]
        for timing in ("interval", "timeout", "retries"):
            assert f"--{timing}={service['healthcheck'][timing]}" in check


def test_every_setting_that_is_named_exists() -> None:
    """No file sets a MOVERANK_* variable that the service does not read."""
    for name in ("Dockerfile", "docker-compose.yml"):
        named = set(re.findall(r"MOVERANK_[A-Z_]*[A-Z]", (ROOT / name).read_text()))
        assert named
        assert named <= SETTINGS, name


def test_compose_environment_wins_over_env_file() -> None:
    """A .env written for `make run` cannot move the listener or the data inside the container."""
    inside = {name: value for name, value in environment(final("cpu")).items() if name in SETTINGS}
    assert set(inside) == {"MOVERANK_HOST", "MOVERANK_PORT", "MOVERANK_DATA_DIR"}
    for service in ours():
        assert inside.items() <= service["environment"].items()


def test_the_image_wants_a_key_and_compose_is_open_to_this_machine_only() -> None:
    """An image alone would listen to everybody and so refuses without a key; Compose says open, and publishes to loopback."""
    assert "MOVERANK_OPEN" not in environment(final("cpu"))
    for service in ours():
        assert service["environment"]["MOVERANK_OPEN"] == "${MOVERANK_OPEN:-true}"
    for service in compose().values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_is_confined() -> None:
    """Each service is reachable from this machine only, writes to its volume only, and gains no privilege."""
    for service in ours():
        assert service["ports"] == ["127.0.0.1:${MOVERANK_PORT:-8000}:8000"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == ["data:/data"]
        assert [entry.split(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
        assert service["restart"] == "unless-stopped"


def test_compose_waits_longer_than_the_service_drains() -> None:
    """Requests in flight are answered before the engine kills the process."""
    drain: int = Settings.model_fields["drain_timeout_s"].default
    for service in ours():
        assert int(service["stop_grace_period"].removesuffix("s")) > drain


def test_gpu_profile_reserves_a_device_and_refuses_without_one() -> None:
    """Only the service of the gpu profile reserves an NVIDIA device, and it may not fall back to the CPU."""
    services = compose()
    cpu, gpu = services["moverank"], services["moverank-gpu"]
    assert "profiles" not in cpu
    assert "deploy" not in cpu
    assert cpu["build"]["target"] == "cpu"
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["target"] == "gpu"
    assert gpu["environment"]["MOVERANK_DEVICE"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_build_arguments_of_compose_are_declared() -> None:
    """A build argument that Compose passes on is read by the stages it is meant for."""
    found = stages()
    for service in ours():
        read = {rest.split("=")[0] for stage in ("", "build", f"build-{service['build']['target']}")
                for word, rest in found[stage] if word == "ARG"}  # fmt: skip
        assert set(service["build"]["args"]) <= read


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    """The Dockerfile's linter has nothing to say."""
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
