"""Processes that have PyTorch already: for tests of what programs do, not of their start.

Its import, and that of what CompressAI needs beside it, is most of the time of a program
that codes a small picture. A server imports these once, and nothing of CompressAI or ours
but what PyTorch's own import brings; then it forks, for each program that is asked for.

    python forkserver.py serve SOCKET
    python forkserver.py SOCKET [-m MODULE | -c CODE | FILE] ARGUMENT...

The second runs as Python without ``forkserver.py SOCKET``, in its folder, with its
environment and standard streams. Signals do not reach the program; threads are those of the
server.
"""

import json
import os
import runpy
import signal
import socket
import sys


def ask(address: str, arguments: list[str]) -> None:
    """Have a program run, and end as it does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"."], [0, 1, 2])
        asked = {"argv": arguments, "folder": os.getcwd(), "environment": {**os.environ}}
        server.sendall(json.dumps(asked).encode())
        server.shutdown(socket.SHUT_WR)
        code = os.waitstatus_to_exitcode(int(server.recv(100)))
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def serve(address: str) -> list[str]:
    """Wait for programs; in the process of each, its arguments."""
    import scipy.stats  # noqa: F401
    import torch_geometric.transforms  # noqa: F401
    import torchvision  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none is waited for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                break
            client.close()
    with client:
        streams = socket.recv_fds(client, 1, 3)[1]
        asked = json.loads(client.makefile().read())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if program := os.fork():
            client.sendall(str(os.waitpid(program, 0)[1]).encode())
            os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    settle(asked["folder"], asked["environment"])
    return list(asked["argv"])


def settle(folder: str, environment: dict[str, str]) -> None:
    """Take on a folder and an environment; what is imported from where follows."""
    os.chdir(folder)
    before, after = (
        list(filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)))
        for variables in (os.environ, environment)
    )
    sys.path[1:] = [*after, *(path for path in sys.path[1:] if path not in before)]
    os.environ.clear()
    os.environ.update(environment)


def run(argv: list[str]) -> None:
    """Run a program as Python does that is given these arguments."""
    kind, *rest = argv
    sys.argv[:] = rest if kind == "-m" else argv if kind != "-c" else [kind, *rest[1:]]
    if kind == "-m":
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0] = ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] != "serve":
        ask(sys.argv[1], sys.argv[2:])
    run(serve(sys.argv[2]))
