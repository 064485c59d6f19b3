"""What an untrusted process may do: Landlock and seccomp, entered before it begins. Protected.

    python -I -S sandbox.py BOX COMMAND...      # BOX: a Box, as JSON
    python -I -S sandbox.py                     # says what there is here, as JSON

Everything below the box inherits it and nothing can leave it; no privilege is needed. Inside,

    files       only what the box names can be read, written or run (Landlock)
    network     no socket can be made (seccomp; Landlock holds TCP and abstract names besides), but in a
                box with `unix_sockets` those of this machine
    processes   none outside can be signalled, traced or read (Landlock), and in a box without
                `processes` none can be started (seccomp)
    kernel      no mounts, namespaces, io_uring, bpf, keys, clocks, System V memory ... (seccomp);
                changing modes, owners and times of files is pretended: Landlock does not govern it;
                so is outliving the harness
    resources   memory and file size are limited, core dumps are off, root's capabilities are dropped

Where the kernel lacks Landlock there is no box: `offered` says why. Numbers of syscalls and layouts
of structures are those of the kernel's headers (uapi: landlock.h, seccomp.h, unistd.h).
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_ANY_FS = {1: 13, 2: 14, 3: 15, 4: 15}  # by ABI: how many kinds of access to files it governs; later 16
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_ITSELF, _THREADS = "/proc/self", "/proc/self/task"
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _FILTER = 38, 24, 22, 2
EXIT_REFUSED = 97  # the kernel refused the box
TRUNCATE_ABI, SIGNALS_ABI = 3, 6  # from which Landlock governs truncating, and keeps signals inside

Numbers = Mapping[str, tuple[int | None, int | None]]  # by syscall, on x86-64 and arm64; None: there is none
_DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "semctl": (66, 191), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "init_module": (175, 105), "delete_module": (176, 106),
    "finit_module": (313, 273), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None),
    "ioperm": (173, None), "quotactl": (179, 60), "acct": (163, 89), "syslog": (103, 116),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "open_tree_attr": (467, 467),
}  # fmt: skip
_PRETENDED = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
_UNCOUNTED = {"memfd_create": (319, 279), "memfd_secret": (447, 447)}  # memory that is nobody's resident one
_WATCHES = {"inotify_init": (253, None), "inotify_init1": (294, 26)}  # of what others open, of all files
_FLOCK = {"flock": (73, 32)}  # pretended: locks of files that all may read carry word between boxes
_LOCKS = (
    5,
    6,
    7,
    36,
    37,
    38,
    1024,
    1026,
)  # the same of fcntl: F_(OFD_)GETLK, SETLK, SETLKW, SETLEASE, NOTIFY
_SOCKET, _AF_UNIX = {"socket": (41, 198)}, 1
_ON_OURSELVES = {"prlimit64": (302, 261)}  # allowed where the first argument is 0
_ON_OWN_PROCESS = {  # allowed where the first argument is our own process, before Landlock held signals
    "kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
_SIGNALS_BY_OTHER_WAYS = {"tkill": (200, 130), "pidfd_send_signal": (424, 424)}
_FCNTL, _OWNERS = {"fcntl": (72, 25)}, (8, 10, 15)  # whom a file signals, and how: F_SETOWN(_EX), F_SETSIG
_TRUNCATES, _OPENAT2 = {"truncate": (76, 45)}, {"openat2": (437, 437)}  # before Landlock governed it
_OPENS = (({"open": (2, None)}, 1), ({"openat": (257, 56)}, 2))  # and which argument has the flags
_O_TRUNC_AND_MODE, _O_TRUNC_UNWRITTEN = 0o1003, (0o1000, 0o1003)  # truncating without being opened to write
_PRCTL, _PR_SET_PDEATHSIG = {"prctl": (157, 167)}, 1  # pretended: it ends when the harness ends
_FORKS = {"fork": (57, None), "vfork": (58, None)}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020080  # the latter: NEWNS to NEWNET, NEWCGROUP, NEWTIME
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, audit architecture
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_X32 = 0x40000000  # x86-64 syscalls of another ABI


class SandboxError(Exception):
    """The kernel refused the box; the message says what."""


@dataclass(frozen=True)
class Box:
    """What a process and all it starts may do. Paths that do not exist are passed over."""

    read: tuple[str, ...] = ()  # files and folders with all they hold, to read and to run
    listed: tuple[str, ...] = ()  # folders whose names can be listed, not their files' contents
    write: tuple[str, ...] = ()  # folders in which anything may be made, changed and removed
    devices: tuple[str, ...] = ()  # files and folders to read, write and control
    processes: bool = False  # whether programs may be started
    unix_sockets: bool = False  # whether sockets of this machine's own may be made
    itself: bool = False  # whether the process, not those it starts, may read of itself in /proc
    named_threads: bool = False  # whether the process, not those it starts, may name its threads
    memory_bytes: int | None = None  # of private memory, each process
    file_bytes: int | None = None  # the largest file that can be written


# ---------------------------------------------------------------------------
# What the kernel offers
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """What this machine's kernel can hold a process with."""

    landlock: int  # the ABI version; 0: none
    reason: str  # why there is no box; "" where there is one
    facts: dict[str, object] = field(default_factory=dict)


def offered() -> Offer:
    """Return whether a box can be entered here, and how strong it is."""
    if sys.platform != "linux":
        return Offer(0, f"no Landlock on {platform.system() or sys.platform}")
    if platform.machine() not in _MACHINES:
        return Offer(0, f"no rules for the syscalls of {platform.machine()}")
    abi = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if abi < 1:
        return Offer(0, f"this kernel or container has no Landlock ({os.strerror(ctypes.get_errno())})")
    return Offer(abi, "", {"landlock": abi, "seccomp": True})


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


# ---------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------


def without(root: Path, hidden: list[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield what makes up a folder but for some paths below it: as few paths as will do.

    With each comes whether it is meant whole; of a folder that is not, only the names can be listed.
    """
    inside = [path for path in hidden if path == root or root in path.parents]
    if root in inside:
        return
    yield root, not inside
    if inside:
        try:
            children = sorted(root.iterdir())
        except OSError:
            return
        for child in children:
            if not child.is_symlink():  # what it points to is judged where it lies
                yield from without(child, inside)


def _restrict_files(box: Box, abi: int) -> None:
    libc = _libc()
    every = (1 << _ANY_FS.get(abi, 16)) - 1
    network = 3 if abi >= 4 else 0  # bind and connect, TCP
    scopes = 3 if abi >= SIGNALS_ABI else 0  # abstract unix sockets, signals
    attributes = struct.pack("=QQQ", every, network, scopes)
    size = 24 if abi >= SIGNALS_ABI else 16 if abi >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        raise SandboxError(f"Landlock: no rules: {os.strerror(ctypes.get_errno())}")
    devices = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _IOCTL
    for paths, access in (
        (box.read, _READ),
        (box.listed, _READ_DIR),
        (box.write, every & ~(1 << 6 | 1 << 11)),  # no device nodes
        (box.devices, devices | (every & ~(1 << 6 | 1 << 11) if box.processes else 0)),
    ):
        for path in paths:
            _allow(libc, ruleset, path, access & every)
    for wanted, path, access in (
        (box.itself, _ITSELF, _READ),
        (box.named_threads, _THREADS, _READ | _WRITE_FILE | _TRUNCATE),
    ):
        if wanted:
            _allow(libc, ruleset, path, access & every)
            # The rule is about an inode of /proc, which is another one once the kernel has forgotten it.
            libc.open(path.encode(), os.O_PATH)  # left open for good, in what is run next, too
    if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise SandboxError(f"Landlock: cannot enter: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not Path(path).is_dir():
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, beneath)
        if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0:
            raise SandboxError(f"Landlock: {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(beneath)


# ---------------------------------------------------------------------------
# Syscalls
# ---------------------------------------------------------------------------


_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data
_REFUSED, _DONE, _UNKNOWN = _ERRNO | _EPERM, _ERRNO, _ERRNO | _ENOSYS


class _Program:
    """A filter: a classic BPF program over the number and one argument of a syscall."""

    def __init__(self) -> None:
        self.column, architecture = _MACHINES[platform.machine()]
        self.code = b""
        self.add(_LOAD, _ARCHITECTURE)
        self.add(_EQUAL, architecture, 1, 0)
        self.add(_RETURN, _KILL)
        self.add(_LOAD, _NUMBER)
        if self.column == 0:
            self.add(_AT_LEAST, _X32, 0, 1)
            self.add(_RETURN, _UNKNOWN)

    def add(self, code: int, k: int, if_true: int = 0, if_false: int = 0) -> None:
        """Append one instruction."""
        self.code += struct.pack("=HBBI", code, if_true, if_false, k)

    def answer(self, names: Numbers, result: int) -> None:
        """Answer syscalls."""
        for numbers in names.values():
            if (number := numbers[self.column]) is not None:
                self.add(_EQUAL, number, 0, 1)
                self.add(_RETURN, result)

    def judge(
        self, names: Numbers, argument: int, values: tuple[int, ...], then: int, other: int, mask: int = ~0
    ) -> None:
        """Answer syscalls by what bits of an argument are."""
        for numbers in names.values():
            if (number := numbers[self.column]) is not None:
                self.add(_EQUAL, number, 0, 2 * len(values) + 3)
                self.add(_LOAD, _ARGUMENTS + 8 * argument)
                self.add(_AND, mask & 0xFFFFFFFF)
                for value in values:
                    self.add(_EQUAL, value, 0, 1)
                    self.add(_RETURN, then)
                self.add(_RETURN, other)


def _program(box: Box, abi: int) -> bytes:
    """Return the filter of a box, for a kernel whose Landlock has this ABI."""
    made = _Program()
    made.answer(_DENIED, _REFUSED)
    if box.unix_sockets:
        made.judge(_SOCKET, 0, (_AF_UNIX,), _ALLOW, _REFUSED)
    else:
        made.answer(_SOCKET, _REFUSED)
    made.answer(_PRETENDED, _DONE)
    made.judge(_PRCTL, 0, (_PR_SET_PDEATHSIG,), _DONE, _ALLOW)
    made.answer({"clone3": _CLONE3}, _UNKNOWN)  # its flags are out of a filter's sight; libc then clones
    made.judge(_ON_OURSELVES, 0, (0,), _ALLOW, _REFUSED)
    if abi < SIGNALS_ABI:
        made.judge(_ON_OWN_PROCESS, 0, (os.getpid(),), _ALLOW, _REFUSED)
        made.answer(_SIGNALS_BY_OTHER_WAYS, _REFUSED)
    commands = (_OWNERS if abi < SIGNALS_ABI else ()) + (() if box.processes else _LOCKS)
    made.judge(_FCNTL, 1, commands, _REFUSED, _ALLOW)
    if abi < TRUNCATE_ABI:
        made.answer(_TRUNCATES, _REFUSED)
        made.answer(_OPENAT2, _UNKNOWN)
        for names, argument in _OPENS:
            made.judge(names, argument, _O_TRUNC_UNWRITTEN, _REFUSED, _ALLOW, _O_TRUNC_AND_MODE)
    if not box.processes:
        for calls in (_FORKS, _UNCOUNTED, _WATCHES):
            made.answer(calls, _REFUSED)
        made.answer(_FLOCK, _DONE)
        made.judge({"sched_setaffinity": (203, 122)}, 0, (0,), _ALLOW, _REFUSED)
    made.add(_EQUAL, _CLONE[made.column], 0, 5 if not box.processes else 3)
    made.add(_LOAD, _ARGUMENTS)
    made.add(_ANY_BIT, _CLONE_NAMESPACES, 0, 1)
    made.add(_RETURN, _REFUSED)
    if not box.processes:
        made.add(_ANY_BIT, _CLONE_THREAD, 1, 0)
        made.add(_RETURN, _REFUSED)
    made.add(_RETURN, _ALLOW)
    return made.code


def _filter_syscalls(box: Box, abi: int) -> None:
    program = _program(box, abi)
    kept = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    if _libc().prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        raise SandboxError(f"seccomp: {os.strerror(ctypes.get_errno())}")


# ---------------------------------------------------------------------------
# Entering
# ---------------------------------------------------------------------------


def _drop_capabilities() -> None:
    """Give up what root may do beyond other users; a user without capabilities has none to give."""
    libc = _libc()
    for number in range(64):
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    libc.capset(header, none)


def enter(box: Box) -> None:
    """Restrict this process and all it will start, for ever; SandboxError where the kernel refuses."""
    offer = offered()
    if offer.reason:
        raise SandboxError(offer.reason)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, box.memory_bytes),
        (resource.RLIMIT_FSIZE, box.file_bytes),
    ):
        if limit is not None:
            resource.setrlimit(kind, (limit, limit))
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SandboxError(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    _drop_capabilities()
    _restrict_files(box, offer.landlock)
    _filter_syscalls(box, offer.landlock)


def command(box: Box, words: list[str]) -> list[str]:
    """Return the command that runs another inside a box."""
    return [sys.executable, "-I", "-S", "-B", __file__, json.dumps(asdict(box)), *words]


def main() -> None:
    """Enter the box and become the command; without one, say what this kernel offers."""
    if len(sys.argv) == 1:
        print(json.dumps(asdict(offered())))
        return
    told: dict[str, Any] = json.loads(sys.argv[1])
    told |= {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    box = Box(**told)
    try:
        enter(box)
        os.execv(sys.argv[2], sys.argv[2:])
    except (SandboxError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
