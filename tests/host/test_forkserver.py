"""A Python that has PyTorch already is a Python."""

import os
import subprocess
import sys

from pathlib import Path

PROGRAM = """
import os, sys
print(sys.argv, os.getcwd(), os.environ.get("GIVEN"), sys.stdin.read(), __name__)
print(sys.path[0], "compressai" in sys.modules, file=sys.stderr)
if len(sys.argv) > 1:
    os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(3)
"""


def test_programs_cannot_tell(python: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    for program in (["-c", PROGRAM], ["program.py"], ["-m", "program"]):
        for arguments in ([], ["9"]):
            real, prepared = (
                subprocess.run(
                    [name, *program, *arguments],
                    cwd=tmp_path,
                    env={**os.environ, "GIVEN": "this"},
                    input="\n" * 100_000,
                    capture_output=True,
                    text=True,
                )
                for name in (sys.executable, python)
            )
            assert real.returncode == (-9 if arguments else 3)
            assert prepared.returncode == real.returncode
            assert prepared.stdout == real.stdout and prepared.stderr == real.stderr
