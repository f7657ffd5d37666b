"""`moverank serve | reindex | key`: the commands of the installed service.

What is left out on the command line comes from ``MOVERANK_*`` and ``.env``; see `service.settings`.
"""

import argparse
import gc
import logging
import logging.config
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn

from service.access import check_exposure, new_key, split_list
from service.app import create_app
from service.connections import JoiningProtocol
from service.errors import ServiceError
from service.reindex import reindex
from service.settings import Settings, given_variables, read_settings, unknown_variables
from service.version import VERSION

STOPPING = (signal.SIGTERM, signal.SIGINT)
MOST_FILES = 65_536
"""Open files that the service asks the system for; a collection has about twenty."""

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "service.log_lines.JsonLines"}},
    "handlers": {"stderr": {"class": "service.log_lines.JoinedLines", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "uvicorn.access": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "transformers": {"level": "ERROR"},
        "onnx_ir": {"level": "ERROR"},
        "onnxscript": {"level": "ERROR"},
        "torch.onnx": {"level": "ERROR"},
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="moverank", description="Text-similarity retrieval microservice, Chinese first."
    )
    parser.add_argument("--version", action="version", version=f"moverank {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="start the service")
    serving.add_argument("--host", help="address to listen on (MOVERANK_HOST)")
    serving.add_argument("--port", type=int, help="port to listen on (MOVERANK_PORT)")
    renewing = commands.add_parser(
        "reindex", help="encode a collection anew with the present model; the service must not run"
    )
    renewing.add_argument("collection", nargs="+")
    making = commands.add_parser(
        "key",
        help="make a key: prints it to the screen, and to the output the line for MOVERANK_API_KEYS_FILE, its hash",
    )
    making.add_argument("name", help="whose key it is: 1 to 64 letters, digits or . _ -")
    making.add_argument("role", choices=("read", "write"), help="what it may do")
    for command in (serving, renewing):
        command.add_argument("--data-dir", type=Path, help="folder of collections and jobs (MOVERANK_DATA_DIR)")
        command.add_argument("--model", type=Path, help="encoder folder (MOVERANK_MODEL)")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where inference runs (MOVERANK_DEVICE)")
    given = vars(parser.parse_args(arguments))
    command, names = given.pop("command"), given.pop("collection", [])
    name, role = given.pop("name", ""), given.pop("role", "")
    logging.config.dictConfig(LOGGING)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # which no line says
    try:
        if command == "key":
            key, line = new_key(name, role)
            print(f"the key of {name}, shown this once: {key}", file=sys.stderr)
            print(line)
            return 0
        settings = read_settings(given)
        if command == "serve":
            return serve(settings)
        for name in names:
            reindex(settings, name)
    except (ValueError, RuntimeError, OSError, ServiceError) as error:
        print(f"moverank: {error}", file=sys.stderr)
        return 1
    return 0


def spare_what_stays() -> None:
    """Keep the garbage collector from what lives now: libraries, model, collections.

    They are half a million objects that stay until the end. A full collection goes through all of them, which nobody can
    work beside: every few thousand requests all callers would wait for that.
    """
    gc.collect()
    gc.freeze()


def allow_many_files() -> None:
    """Let this process open as many files as the system lets it, `MOST_FILES` at most: the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # where that is not allowed, it goes on with what it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_address(host: str, port: int) -> None:
    """Raise ValueError where nobody can listen, because somebody does or because the address is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def serve(settings: Settings) -> int:
    """Run the service until SIGTERM or SIGINT; 1 if it could not start."""
    for sentence in unknown_variables(given_variables()):
        print(f"moverank: {sentence}", file=sys.stderr)
    allow_many_files()
    gc.freeze()  # what was imported need not be gone through while the model is loaded
    fixed = (settings.api_keys, settings.read_only_keys)
    has_keys = settings.api_keys_file is not None or any(split_list(keys.get_secret_value()) for keys in fixed)
    check_exposure(settings.host, has_keys, settings.open)
    # Nothing has begun yet that would have to end well. An exception instead could be lost where a library ignores it.
    for number in STOPPING:
        signal.signal(number, lambda *_: os._exit(0))
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=JoiningProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        timeout_keep_alive=75,  # seconds; proxies keep idle connections for 60 and must be the ones who close
        server_header=False,
    )
    check_address(settings.host, settings.port)  # before anything is loaded or written
    server = uvicorn.Server(config)
    app.state.on_ready = spare_what_stays
    app.state.on_failure = lambda: setattr(server, "should_exit", True)
    # uvicorn has handlers of its own while it runs, and raises the signal that stopped it again when it has shut down.
    for number in STOPPING:
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run()
    if app.state.failure is not None:
        print(f"moverank: {app.state.failure}", file=sys.stderr)
        return 1
    # Everything is written and closed. What the interpreter would still do, taking torch apart, costs seconds.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
