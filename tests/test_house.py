"""The rules of the house, read from the source: who may import whom, one door per library, sizes, names, docstrings."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "service", "scripts")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("*.py"))

MAX_LINES = 350
DOORS = {
    "faiss": {"service/vector_index.py"},
    "ot": {"models/transport.py"},
    "fastapi": {"service/app.py", "service/routes/"},
    "starlette": {"service/app.py", "service/routes/"},
    "sse_starlette": {"service/routes/"},
    "uvicorn": {"service/cli.py", "service/connections.py"},
    "sqlite3": {
        "service/documents.py",
        "service/joined_rows.py",
        "service/jobs.py",
        "service/graph_changes.py",
        "service/store_errors.py",
    },
    "pydantic_settings": {"service/settings.py"},
    "dotenv": {"service/settings.py"},
    "pydantic": {
        "service/schemas.py",
        "service/dialect_schemas.py",
        "service/graph_schemas.py",
        "service/paraphrase_schemas.py",
        "service/settings.py",
    },
    "asyncio": {"service/app.py", "service/routes/", "service/log_lines.py"},
    "pyarrow": {"service/corpus_files.py", "service/parquet_values.py", "scripts/conversion/", "service/triples.py"},
    "google_crc32c": {"scripts/conversion/"},
    "zstandard": {"service/numbered_lines.py"},
    "onnxruntime": {"models/onnx_export.py"},
    "transformers": {
        "models/",
        "service/runtime.py",
        "scripts/training/",
        "scripts/convert_checkpoint.py",
        "scripts/expand_corpus.py",
        "scripts/train_simbert.py",
        "scripts/lookup_training/",
    },
    "safetensors": {
        "models/",
        "scripts/training/",
        "scripts/train_lookup.py",
        "scripts/convert_checkpoint.py",
        "scripts/model_folder.py",
    },
    "torch": {
        "models/",
        "service/runtime.py",
        "scripts/evaluate.py",
        "scripts/training/",
        "scripts/train_simbert.py",
        "scripts/lookup_training/",
        "scripts/train_lookup.py",
        "scripts/fit_lookup.py",
    },
    "argparse": {"service/cli.py", "scripts/"},
    "prometheus_client": {"service/metrics.py"},
    "opentelemetry": {"service/tracing.py"},
    "pythonjsonlogger": {"service/log_lines.py"},
}
"""Where a library may be imported; the benchmarks, which compare with the libraries themselves, may import all.

runtime.py and evaluate.py set the threads of torch and the progress bars of transformers, and nothing more.
"""

OPTIONAL = {
    "opentelemetry",
    "onnxruntime",
    "onnx",
    "onnxscript",
    "gensim",
    "sentence_transformers",
    "faiss",
    "ot",
    "matplotlib",
}
"""Extras: what may be imported inside a function."""

BANNED = {
    "utils",
    "util",
    "helper",
    "helpers",
    "manager",
    "handler",
    "common",
    "misc",
    "base",
    "core",
    "engine",
    "process",
    "data",
}
DICTATED = {"get_route_handler"}
"""Names that a library chose."""
BANNED_PARTS = BANNED - {"data", "process", "base", "core"}


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(node: ast.AST) -> Iterator[str]:
    """Yield the modules that a node imports, directly or inside; `from package import module` counts as both."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute"
            yield str(each.module)
            yield from (f"{each.module}.{alias.name}" for alias in each.names)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def starts_with(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def ids(path: Path) -> str:
    return place(path)


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_imports_go_from_scripts_to_service_to_models_and_never_back(path: Path) -> None:
    """models know nobody, the service knows models, scripts know both but not the web, routes know no models."""
    forbidden = {"models": ("service", "scripts", "tests"), "service": ("scripts", "tests")}.get(
        place(path).split("/")[0], ("service.app", "service.routes", "tests")
    )
    if place(path).startswith("service/routes/"):
        forbidden += ("models",)
    if not place(path).startswith(("service/routes/", "service/app.py")):
        forbidden += ("service.routes",)
    if place(path) != "service/cli.py":
        forbidden += ("service.app", "service.cli")
    assert [name for name in imports(tree_of(path)) if starts_with(name, *forbidden)] == []


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    """Each foreign library is imported only where its traps are absorbed."""
    inside = {place(path) for path in SOURCES if any(starts_with(name, library) for name in imports(tree_of(path)))}
    doors = tuple(DOORS[library])
    assert {path for path in inside if not path.startswith((*doors, "scripts/benchmark/"))} == set()


def test_no_module_imports_itself_through_others() -> None:
    """The graph of imports has no cycle."""
    modules = {module(path) for path in SOURCES}
    graph = {
        module(path): {name for name in imports(tree_of(path)) if name in modules} - {module(path)} for path in SOURCES
    }
    while graph:
        free = {name for name, needed in graph.items() if not needed & graph.keys()}
        assert free, f"a cycle among {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in free}


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_functions_import_nothing_but_optional_extras(path: Path) -> None:
    """Imports stand at the top."""
    inside = [name for function in functions(tree_of(path)) for name in imports(function)]
    assert [name for name in inside if name.split(".")[0] not in OPTIONAL] == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=ids)
def test_a_file_says_what_it_is(path: Path) -> None:
    """Every module has a docstring that begins with a sentence."""
    described = ast.get_docstring(tree_of(path))
    assert described
    assert len(described.splitlines()[0]) > 15


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_a_file_is_of_one_size(path: Path) -> None:
    """No source file is longer than a person reads in one go."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_names_say_something(path: Path) -> None:
    """No module, class or function is called a helper, a manager or what else fits everything."""
    tree = tree_of(path)
    names = [
        path.stem,
        *(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)),
        *(f.name for f in functions(tree)),
    ]
    for name in filter(lambda name: name not in DICTATED, names):
        words = re.findall(r"[A-Z]?[a-z0-9]+", name)
        assert name.strip("_").lower() not in BANNED
        assert not {word.lower() for word in words} & BANNED_PARTS, name


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_functions_are_annotated_and_public_ones_described(path: Path) -> None:
    """Every argument and result has a type; public classes and functions have a docstring that is a sentence."""
    tree = tree_of(path)
    for function in functions(tree):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        bare = [
            arg.arg for arg in named if arg is not None and arg.annotation is None and arg.arg not in ("self", "cls")
        ]
        assert bare == [], f"{function.name}({', '.join(bare)})"
        assert function.returns is not None, function.name
    for node in public(tree):
        described = ast.get_docstring(node)
        assert described, f"{node.name} has no docstring"
        assert described.splitlines()[0].rstrip().endswith((".", ":", "?", "`")) or len(described.splitlines()) > 1, (
            node.name
        )


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield public functions and classes, and the public methods of these."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
                yield from (method for method in methods if not method.name.startswith("_"))


@pytest.mark.parametrize("path", TESTS, ids=ids)
def test_a_test_says_what_is_true_when_it_passes(path: Path) -> None:
    """Every test has a docstring that is a sentence."""
    for function in functions(tree_of(path)):
        if function.name.startswith("test_"):
            described = ast.get_docstring(function) or ""
            assert described.rstrip().endswith("."), function.name


def test_nothing_is_caught_blindly() -> None:
    """`except Exception` stands only where a fault must not end a thread, a probe or a job; no bare `except:`."""
    allowed = {
        "models/encoder_folder.py",
        "models/onnx_export.py",
        "service/encoder_thread.py",
        "service/jobs.py",
        "service/runtime.py",
        "service/app.py",
        "service/observability.py",
        "models/name_tokens.py",
        "service/graph_library.py",
        "service/knowledge.py",
        "service/library.py",
    }
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{place(path)}:{node.lineno}"
                if isinstance(node.type, ast.Name) and node.type.id == "Exception":
                    assert place(path) in allowed, f"{place(path)}:{node.lineno}"


def test_files_name_no_machine_and_no_registry() -> None:
    """No file of the project has a path of somebody's machine or the host of a package registry or mirror in it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    forbidden = re.compile(
        "|".join(
            [
                r"/wor" + r"k/",
                r"/home/\w+",
                r"/Use" + r"rs/\w+",
                r"[Ss]imple/ *--extra-index",
                r"index-url +http",
                r"//[\w.-]*mirror[\w.-]*/",
            ]
        )
    )
    faults = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 1 << 20 and path != Path(__file__):
            content = path.read_bytes()
            if b"\0" not in content[:1_000]:
                faults += [
                    f"{name}: {found.group()}" for found in forbidden.finditer(content.decode("utf-8", "replace"))
                ]
    assert faults == []
