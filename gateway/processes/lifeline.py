"""A process that ends with its parent, also when that one is killed with -9. Linux only.

`python -m gateway.processes.lifeline PARENT_PID PROGRAM ARGUMENTS...` becomes the program. Its own step
rather than a `preexec_fn`: that one runs Python between fork and exec, which may hang when the parent has
threads (and a resolver of names brings some).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

# linux/prctl.h. The setting outlives exec, but not a fork.
PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """From now on this process gets SIGKILL when its parent ends. Raises OSError where that can't be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def tied(program: Sequence[str]) -> list[str]:
    """The command line that runs `program` tied to this process."""
    # -P: the module comes from where Spillway is installed, whatever stands in the working directory.
    return [sys.executable, "-P", "-m", "gateway.processes.lifeline", str(os.getpid()), *program]


def main(arguments: Sequence[str]) -> None:
    parent_pid, program, *rest = arguments
    die_with_parent(int(parent_pid))
    os.execv(program, [program, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
