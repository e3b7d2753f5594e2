"""Runs a program under ptrace(2), as a debugger would, until it ends; its exit code becomes ours."""

import ctypes
import os
import signal
import sys

PTRACE_TRACEME, PTRACE_CONT = 0, 7
libc = ctypes.CDLL(None, use_errno=True)

child = os.fork()
if child == 0:
    libc.ptrace(PTRACE_TRACEME, 0, None, None)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    if os.WIFSIGNALED(status):
        sys.exit(128 + os.WTERMSIG(status))
    number = os.WSTOPSIG(status)
    libc.ptrace(PTRACE_CONT, child, None, ctypes.c_void_p(0 if number == signal.SIGTRAP else number))
