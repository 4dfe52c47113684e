"""Takes something away from a program: confine.py WHAT... -- COMMAND...

--refuse-bpf ERRNO  bpf(2), by a seccomp filter
--empty FOLDER      what is in a folder, by an empty file system over it
--put FILE PATH     the other way round: a copy of a file, where there was none
--no-libbpf         the system's libbpf
--old-libbpf        the same, and there is one that is called libbpf.so.0

Mounts are in a namespace of the program's own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
from pathlib import Path

# include/uapi/linux/sched.h, mount.h, prctl.h, seccomp.h, filter.h
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
RET_ERRNO, RET_ALLOW = 0x50000, 0x7FFF0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    arguments = (source.encode(), target.encode(), kind.encode())
    check(libc.mount(*arguments, ctypes.c_ulong(flags), None), f"mount {target}")


def refuse_bpf(code: int) -> None:
    """struct sock_filter: operation, two jumps, a value."""
    number = BPF_SYSCALL[os.uname().machine]
    program = struct.pack(
        "=HBBIHBBIHBBIHBBI",
        *(LOAD_WORD, 0, 0, 0),  # struct seccomp_data begins with the number
        *(JUMP_IF_EQUAL, 0, 1, number),
        *(RETURN, 0, 0, RET_ERRNO | code),
        *(RETURN, 0, 0, RET_ALLOW),
    )
    text = ctypes.create_string_buffer(program)
    filters = struct.pack("@HP", 4, ctypes.addressof(text))
    check(
        libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters, 0, 0),
        "seccomp",
    )


def hide_libbpf(old: bool) -> None:
    """Its folder, with all but it. Programs start there, so in this process."""
    ctypes.CDLL("libbpf.so.1")
    maps = Path("/proc/self/maps").read_text()
    path = next(word for word in maps.split() if "/libbpf.so" in word)
    folder = os.path.dirname(path)
    names = os.listdir(folder)
    os.makedirs("/mnt", exist_ok=True)
    mount("none", "/mnt", "tmpfs")
    whole = "/mnt/whole"
    os.mkdir(whole)
    mount(folder, whole, flags=MS_BIND)
    mount("none", folder, "tmpfs")
    for name in names:
        if not name.startswith("libbpf.so"):
            os.symlink(f"{whole}/{name}", f"{folder}/{name}")
    if old:
        os.symlink(f"{whole}/{os.path.basename(path)}", f"{folder}/libbpf.so.0")


def main(words: list[str]) -> None:
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    while (word := words.pop(0)) != "--":
        if word == "--refuse-bpf":
            refuse_bpf(int(words.pop(0)))
        elif word == "--empty":
            os.makedirs(words[0], exist_ok=True)
            mount("none", words.pop(0), "tmpfs")
        elif word == "--put":
            source, path = words.pop(0), words.pop(0)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copyfile(source, path)
        elif word in ("--no-libbpf", "--old-libbpf"):
            hide_libbpf(word == "--old-libbpf")
        else:
            raise SystemExit(f"confine: what is {word}?")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
