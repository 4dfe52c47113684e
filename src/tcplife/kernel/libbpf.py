"""The system's libbpf, as much of its API (1.0) as we use."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_void_p

from tcplife.errors import UnavailableError

_PrintFunction = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SampleFunction = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_PerfFunction = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "btf__free": (None, [c_void_p]),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__parse": (c_void_p, [c_char_p, c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_iter_create": (c_int, [c_int]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__value_size": (c_uint32, [c_void_p]),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_lookup_and_delete_batch": (
        c_int,
        [c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p],
    ),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, ctypes.c_uint64]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__open_mem": (c_void_p, [c_char_p, c_size_t, c_void_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
    "bpf_program__autoload": (ctypes.c_bool, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__section_name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "libbpf_num_possible_cpus": (c_int, []),
    "libbpf_set_print": (c_void_p, [_PrintFunction]),
    "libbpf_version_string": (c_char_p, []),
    "perf_buffer__consume": (c_int, [c_void_p]),
    "perf_buffer__epoll_fd": (c_int, [c_void_p]),
    "perf_buffer__free": (None, [c_void_p]),
    "perf_buffer__new_raw": (
        c_void_p,
        [c_int, c_size_t, c_void_p, _PerfFunction, c_void_p, c_void_p],
    ),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
    "ring_buffer__new": (c_void_p, [c_int, _SampleFunction, c_void_p, c_void_p]),
}


class OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts, up to its last member that we set."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", c_char_p),
        ("unused", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    )


class IterInfo(ctypes.Structure):
    """union bpf_iter_link_info, of which only map_fd is set."""

    _fields_ = (("map_fd", c_uint32), ("rest", c_uint32 * 3))


class IterOptions(ctypes.Structure):
    """struct bpf_iter_attach_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("link_info", POINTER(IterInfo)),
        ("link_info_len", c_uint32),
    )


class PerfAttributes(ctypes.Structure):
    """struct perf_event_attr (include/uapi/linux/perf_event.h), its first version."""

    _fields_ = (
        ("type", c_uint32),
        ("size", c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_watermark", c_uint32),
        ("bp_type", c_uint32),
        ("config1", ctypes.c_uint64),
    )


sample_function = _SampleFunction
perf_function = _PerfFunction


class Library:
    """libbpf's functions as attributes, and what it has complained of."""

    def __init__(self) -> None:
        """Raises UnavailableError where libbpf 1.x isn't installed."""
        self.name = "libbpf.so.1"
        try:
            self._dll = ctypes.CDLL(self.name, use_errno=True)
        except OSError as error:
            raise UnavailableError(_explain(self.name, error)) from None
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(self._dll, name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)
        self.complaints: list[str] = []
        # libbpf keeps only the address: the object must live as long as we do.
        self._print = _PrintFunction(self._complain)
        self.libbpf_set_print(self._print)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _complain(self, level: int, message: bytes, arguments: int) -> int:
        if level == 0:  # LIBBPF_WARN
            # A va_list is passed on as a pointer by the calling conventions of
            # x86-64 (an array) and arm64 (a structure above 16 bytes).
            buffer = ctypes.create_string_buffer(4096)
            vsnprintf = ctypes.CDLL(None).vsnprintf
            vsnprintf.argtypes = [c_char_p, c_size_t, c_char_p, c_void_p]
            vsnprintf(buffer, len(buffer), message, arguments)
            line = buffer.value.decode(errors="replace").strip()
            self.complaints.append(line.removeprefix("libbpf: "))
        return 0


def _explain(name: str, error: OSError) -> str:
    """Why it cannot be loaded, and what to do."""
    if not str(error).startswith(f"{name}: cannot open shared object file"):
        return f"libbpf cannot be loaded: {error}"
    try:
        ctypes.CDLL("libbpf.so.0")
    except OSError:
        return (
            f"{name} is not installed; get it with"
            " `apt install libbpf1` or `dnf install libbpf`"
        )
    # Ubuntu 22.04 and Debian 11 have no newer one.
    return (
        "this host's libbpf is 0.x (libbpf.so.0), and 1.0 or newer is needed: upgrade"
        " the distribution, or build https://github.com/libbpf/libbpf with"
        " `make -C src install LIBDIR=/usr/local/lib && ldconfig`"
    )


def reason() -> str:
    """What errno says of the last call that failed."""
    return os.strerror(ctypes.get_errno())
