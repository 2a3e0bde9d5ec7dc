"""The command as a user who may not do everything, where tests are run by root."""

import os
import sys
import traceback

from compressai_uqdm.cli import main


def as_a_user(*arguments: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of a process that is not root's.

    It is forked, and changes its user: it may not be able to read Python's files, so what
    the command needs must be imported before.
    """
    (out, their_out), (errors, their_errors) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        code = 99
        try:
            os.dup2(their_out, 1)
            os.dup2(their_errors, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            code = main(arguments)
        except SystemExit as error:
            code = int(str(error.code))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(their_out)
    os.close(their_errors)
    with open(out) as first, open(errors) as second:
        texts = first.read(), second.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *texts
