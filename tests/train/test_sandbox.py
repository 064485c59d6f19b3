"""The box itself: what works outside of it and not inside, for each promise it makes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from training import TRAIN

sys.path.insert(0, str(TRAIN))
import sandbox
from sandbox import Box, Offer, offered, without

OFFER = offered()
pytestmark = pytest.mark.skipif(bool(OFFER.reason), reason=f"no sandbox here: {OFFER.reason}")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/proc", "/etc/ld.so.cache", sys.prefix, sys.base_prefix)
REFUSED = ("PermissionError", "BlockingIOError")


class Cell:
    """A folder that can be written, one that cannot, and code run inside or outside."""

    def __init__(self, folder: Path) -> None:
        self.inside, self.outside = folder / "inside", folder / "outside"
        for made in (self.inside, self.outside):
            made.mkdir()
        (self.outside / "secret").write_text("secret")

    def box(self, **changes: object) -> Box:
        settings: dict[str, object] = {
            "read": SYSTEM,
            "write": (str(self.inside),),
            "devices": ("/dev/null",),
        }
        return Box(**{**settings, **changes})  # type: ignore[arg-type]

    def run(self, code: str, box: Box | None) -> tuple[int, str]:
        command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]
        if box is not None:
            command = sandbox.command(box, command)
        done = subprocess.run(
            command,
            cwd=self.inside,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def differs(self, code: str, box: Box | None = None) -> str:
        """Return what a code is told inside, that works outside."""
        code = code.replace("OUT", str(self.outside))
        assert self.run(code, None)[0] == 0, self.run(code, None)
        returned, said = self.run(code, box or self.box())
        assert returned != 0, said
        return said.strip().splitlines()[-1]


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "open('OUT/secret').read()",
        "import os; os.listdir('OUT')",
        "open('OUT/new', 'w')",
        "open('OUT/secret', 'a')",
        "import os; os.truncate('OUT/secret', 6)",
        "import os; os.mkdir('OUT/folder%d' % os.getpid())",
        "import os; open('OUT/gone', 'w'); os.remove('OUT/gone')",
        "import os; os.symlink('OUT/secret', 'OUT/l%d' % os.getpid())",
        "import os; os.rename('OUT/secret', 'OUT/secret')",
        "import os; os.symlink('OUT/secret', 'l%d' % os.getpid()); open('l%d' % os.getpid()).read()",
        "open('/proc/%d/environ' % __import__('os').getppid()).read()",
        "import os; os.open('/proc/%d/fd/0' % os.getppid(), os.O_RDONLY)",
        "import os; os.kill(os.getppid(), 0)",
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import os; os.fork() or os._exit(0)",
        "import subprocess; subprocess.run(['/bin/true'], check=True)",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.setpriority(os.PRIO_PROCESS, 0, 5)",
        "import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
        "import os; os.memfd_create('uncounted')",
    ],
)
def test_what_works_outside_is_refused_inside(cell: Cell, code: str) -> None:
    assert cell.differs(code).startswith(REFUSED)


def test_its_own_folder_is_free(cell: Cell) -> None:
    code = """
        import os
        os.makedirs('a/b'); open('a/b/c', 'w').write('x'); os.rename('a/b/c', 'a/d'); os.remove('a/d')
        os.symlink('a', 'link'); assert open('/dev/null', 'w').write('x')
        import threading; t = threading.Thread(target=print); t.start(); t.join()
        a, b = os.pipe(); os.kill(os.getpid(), 0)
        import socket; socket.socketpair()
    """
    assert cell.run(code, cell.box())[0] == 0, cell.run(code, cell.box())


def test_changes_of_mode_owner_and_time_are_pretended(cell: Cell) -> None:
    secret = cell.outside / "secret"
    before = secret.stat()
    code = f"import os; os.chmod('{secret}', 0); os.utime('{secret}', (1, 1)); os.chown('{secret}', 1, 1)"
    assert cell.run(code, cell.box())[0] == 0
    assert secret.stat() == before


def test_a_process_cannot_arrange_to_outlive_its_parent(cell: Cell) -> None:
    """Asking for no signal at the parent's end is answered as if it had worked."""
    code = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(1, 15, 0, 0, 0) == 0
        held = ctypes.c_int()
        assert libc.prctl(2, ctypes.byref(held), 0, 0, 0) == 0
        print(held.value)
    """
    assert cell.run(code, None) == (0, "15\n")
    assert cell.run(code, cell.box()) == (0, "0\n")


def test_names_can_be_listed_where_contents_cannot_be_read(cell: Cell) -> None:
    box = cell.box(listed=(str(cell.outside),))
    assert cell.run(f"import os; print(os.listdir('{cell.outside}'))", box)[1].strip() == "['secret']"
    assert "PermissionError" in cell.run(f"open('{cell.outside}/secret')", box)[1]


def test_a_box_with_processes_holds_them_too(cell: Cell) -> None:
    box = cell.box(processes=True)
    told = f"import subprocess; subprocess.run(['/bin/cat', '{cell.outside}/secret'], check=True)"
    assert cell.run(told, None)[0] == 0
    returned, said = cell.run(told, box)
    assert returned != 0
    assert "Permission denied" in said
    assert (
        cell.run("import subprocess; subprocess.run(['/bin/echo', 'hello'], check=True)", box)[1] == "hello\n"
    )
    assert "PermissionError" in cell.run("import socket; socket.socket()", box)[1]


def test_a_box_with_unix_sockets_has_no_others(cell: Cell) -> None:
    """A driver binds an abstract name of its own; nobody outside can be reached by one."""
    box = cell.box(unix_sockets=True)
    own = "import socket; s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'own'); s.listen()"
    assert cell.run(own, box)[0] == 0, cell.run(own, box)
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK"):
        code = f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)"
        assert "PermissionError" in cell.run(code, box)[1]


def test_a_process_may_name_its_threads_where_a_driver_has_to(cell: Cell) -> None:
    """As CUDA does when it begins; a name of anything else stays what it is."""
    code = """
        import os, threading
        pid = os.getppid() if OTHER else os.getpid()
        def name():
            for tid in os.listdir(f'/proc/{pid}/task'):
                open(f'/proc/{pid}/task/{tid}/comm', 'r+').write('named')
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()
        name()
        assert open(f'/proc/self/task/{thread.native_id}/comm').read() == 'named\\n'
    """
    box = cell.box(named_threads=True)
    own, other = (code.replace("OTHER", held) for held in ("False", "True"))
    assert cell.run(own, box)[0] == 0, cell.run(own, box)
    assert "PermissionError" in cell.run(other, box)[1]
    assert "PermissionError" in cell.run(own, cell.box())[1]
    assert "PermissionError" in cell.run("open('/proc/sys/kernel/core_pattern', 'r+')", box)[1]


def test_nothing_is_read_of_other_processes_and_all_of_itself(cell: Cell) -> None:
    """A command line can be rewritten by its process: it would carry word from one box to another."""
    proc = ("/proc/cpuinfo", "/proc/meminfo", "/proc/sys")
    box = cell.box(itself=True, read=(*(path for path in SYSTEM if path != "/proc"), *proc))
    code = """
        import os
        for name in ('cmdline', 'maps', 'status', f'task/{os.getpid()}/comm'):
            open(f'/proc/self/{name}').read()
        open('/proc/meminfo').read(), open('/proc/sys/vm/overcommit_memory').read()
    """
    assert cell.run(code, box)[0] == 0, cell.run(code, box)
    for name in ("cmdline", "comm", "stat", "status", f"task/{os.getpid()}/comm"):
        assert cell.differs(f"open('/proc/{os.getpid()}/{name}')", box).startswith(REFUSED)
    assert cell.differs("open('/proc/locks')", box).startswith(REFUSED)


def test_locks_and_watches_carry_no_word(cell: Cell) -> None:
    held = "import fcntl, os; held = os.open('/usr/bin/env', os.O_RDONLY); "
    for command in ("fcntl.lockf(held, fcntl.LOCK_SH)", "fcntl.fcntl(held, fcntl.F_NOTIFY, 0)"):
        assert "PermissionError" in cell.run(held + command, cell.box())[1]
    both = (
        "other = os.open('/usr/bin/env', os.O_RDONLY); fcntl.flock(held, fcntl.LOCK_EX); "
        "fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    assert "BlockingIOError" in cell.run(held + both, None)[1]
    assert cell.run(held + both, cell.box()) == (0, "")
    watch = "import ctypes; raise SystemExit(ctypes.CDLL(None).inotify_init1(0) < 0)"
    assert (cell.run(watch, None)[0], cell.run(watch, cell.box())[0]) == (0, 1)


def test_memory_and_files_are_limited(cell: Cell) -> None:
    box = cell.box(memory_bytes=200 << 20, file_bytes=1 << 20)
    assert cell.run("x = bytearray(50 << 20)", box)[0] == 0
    assert "MemoryError" in cell.run("x = bytearray(300 << 20)", box)[1]
    assert "File too large" in cell.run("open('f', 'wb').write(bytes(2 << 20))", box)[1]


@pytest.mark.skipif(os.getuid() != 0, reason="only root has capabilities to give up")
def test_root_gives_up_its_capabilities(cell: Cell) -> None:
    code = "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')])"
    said = cell.run(code, cell.box())[1]
    assert said.strip() == str(["0000000000000000"] * 5)


def test_kernel_doors_are_closed(cell: Cell) -> None:
    numbers = {"unshare": 272, "io_uring_setup": 425, "bpf": 321, "keyctl": 250, "shmget": 29, "ptrace": 101}
    numbers |= {"shmat": 30, "shmctl": 31, "semctl": 66, "msgctl": 71, "mq_unlink": 241}
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86-64")
    for name, number in numbers.items():
        code = f"""
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            got = libc.syscall({number}, 0, 0, 0, 0, 0)
            raise SystemExit(0 if (got, ctypes.get_errno()) == (-1, 1) else 5)
        """
        assert cell.run(code, cell.box())[0] == 0, name


def test_abstract_sockets_and_tcp_are_out_of_reach_whatever_was_open(cell: Cell) -> None:
    """Also for a socket that a process brings along: Landlock holds what no filter sees."""
    name = f"\0box-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        code = f"""
            import os, socket, sys
            sys.path.insert(0, {str(TRAIN)!r})
            import sandbox
            early = socket.socket(socket.AF_UNIX)
            if {{held}}:
                sandbox.enter(sandbox.Box(read={SYSTEM!r}))
            early.connect({name!r})
        """
        assert cell.run(code.replace("{held}", "False"), None)[0] == 0
        returned, said = cell.run(code.replace("{held}", "True"), None)
    if OFFER.landlock >= sandbox.SIGNALS_ABI:
        assert returned != 0
        assert "PermissionError" in said


def test_older_kernels_are_held_by_rules_of_syscalls(cell: Cell) -> None:
    """What this kernel's Landlock does for signals, the filter does where it does not."""
    code = f"""
        import os, sys
        sys.path.insert(0, {str(TRAIN)!r})
        import sandbox
        sandbox.offered = lambda: sandbox.Offer(1, "")
        sandbox.enter(sandbox.Box(read={SYSTEM!r}, write=({str(cell.inside)!r},)))
        os.kill(os.getpid(), 0)
        import fcntl
        held = os.open("/proc/self/status", os.O_RDONLY)
        for attempt in (
            lambda: os.kill(os.getppid(), 0),
            lambda: open({str(cell.outside)!r} + "/secret"),
            lambda: os.truncate({str(cell.outside)!r} + "/secret", 0),
            lambda: os.open({str(cell.outside)!r} + "/secret", os.O_RDONLY | os.O_TRUNC),
            lambda: os.open({str(cell.outside)!r} + "/secret", 3 | os.O_TRUNC),
            lambda: fcntl.fcntl(held, fcntl.F_SETOWN, os.getppid()),
            lambda: fcntl.fcntl(held, 10, 9),
        ):
            try:
                attempt()
            except PermissionError:
                continue
            raise SystemExit("not held")
        fcntl.fcntl(held, fcntl.F_GETFL)
        os.close(os.open("own", os.O_CREAT | os.O_TRUNC | os.O_WRONLY))
    """
    assert cell.run(code, None) == (0, "")
    assert (cell.outside / "secret").read_text() == "secret"


def test_a_kernel_that_refuses_is_told_apart_from_a_failing_program(cell: Cell) -> None:
    done = subprocess.run(
        [*sandbox.command(cell.box(), ["/does/not/exist"])], capture_output=True, text=True, check=False
    )
    assert done.returncode == sandbox.EXIT_REFUSED
    assert done.stderr.startswith("sandbox: ")
    assert cell.run("raise SystemExit(3)", cell.box())[0] == 3


def test_what_is_hidden_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/b/d", "e"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")

    def parts(hidden: list[Path]) -> dict[str, bool]:
        return {str(path.relative_to(tmp_path)): whole for path, whole in without(tmp_path, hidden)}

    assert parts([]) == {".": True}
    assert parts([tmp_path]) == {}
    hidden = [tmp_path / "a" / "b" / "c"]
    assert parts(hidden) == {".": False, "a": False, "a/b": False, "a/b/d": True, "e": True}


def test_machines_without_one_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    assert "riscv64" in offered().reason
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    assert offered() == Offer(0, f"no Landlock on {sandbox.platform.system()}")
