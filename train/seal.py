"""What the processes of one run may see and touch, and where its files lie. Protected.

A run has a folder of its own, `Place`, that is removed at its end:

    code/     the edited files, copied from the bytes whose digest is reported; nobody inside can write them
    home/     where training may write, its current folder and HOME; nothing else is writable to it
    model/    the weights, taken out of home/ when training has ended
    serve-1/  and serve-2/: where the model's two processes may write, each its own

Every process of edited code runs in a Box (see `sandbox`) made of this, the interpreter with its packages and
the system's libraries. Nothing else is in it: no home folder, no study, no data but the training rows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import stat
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import prepare
import sandbox
from sandbox import Box
from spec import HERE, Spec

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"),
    *("/sys", "/run/opengl-driver", "/run/nvidia-persistenced", "/opt/nvidia", "/opt/rocm"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group"),
    *("/etc/alternatives", "/etc/OpenCL", "/etc/vulkan"),
)
# What /proc tells of the machine. What it tells of processes carries word from one box to another: each may
# write its own command line, and a run that is measured has seen what another one would like to train on.
MACHINE = ("cpuinfo", "meminfo", "stat", "uptime", "loadavg", "version", "filesystems", "devices", "sys")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU_DEVICES = ("nvidia*", "kfd", "dri", "dxg")  # in /dev
SHARED_MEMORY = "/dev/shm"  # compilers' helpers on GPUs need it; nothing on a CPU does
TRAINING_FILES = ("train.bin", "tokenizer.json", "manifest.json")
COMPILED = ("inductor", "triton")


@dataclass(frozen=True)
class Place:
    """The folders of one run."""

    root: Path
    script: Path  # the edited file that is run, in code/

    @property
    def home(self) -> Path:
        """Where training may write."""
        return self.root / "home"

    @property
    def model(self) -> Path:
        """Where the weights lie once training has ended."""
        return self.root / "model"

    @property
    def weights(self) -> Path:
        """The weights, once training has ended."""
        return self.model / "weights.pt"

    def serving(self, number: int) -> Path:
        """Where a process that answers for the model may write."""
        return self.root / f"serve-{number}"


def make_place(root: Path, spec: Spec) -> tuple[Place, str]:
    """Return the folders of a run with the edited files copied in, and the digest of these.

    The digest of one file is its sha256; of several, that of their names and digests. OSError where a
    file is missing.
    """
    digests = {}
    for name in spec.code:
        content = Path(name).read_bytes()
        copy = root / "code" / _below(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        digests[name] = prepare.sha256_file(copy)
    place = Place(root, root / "code" / _below(spec.script))
    for folder in (place.home, place.model, place.serving(1), place.serving(2)):
        folder.mkdir()
    only = digests[spec.script] if len(digests) == 1 else prepare.digest_of(digests)
    return place, only


def _below(name: str) -> Path:
    path = Path(name)
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path


def take_weights(place: Place, left: Path) -> bool:
    """Move the weights that training left out of its reach; False where it left no file."""
    try:
        if not stat.S_ISREG(left.lstat().st_mode):
            return False
        left.rename(place.weights)
    except OSError:
        return False
    return True


# ---------------------------------------------------------------------------
# Environment
# ---------------------------------------------------------------------------


def environment(spec: Spec, place: Place, home: Path) -> dict[str, str]:
    """Return the variables that edited code sees: what it needs and nothing of ours."""
    passed = (
        *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
        "AUTORESEARCH_FOLDER",  # whose it is, for whoever has to end it
    )
    env = {name: os.environ[name] for name in passed if name in os.environ}
    env |= {
        "HOME": str(home),
        "TMPDIR": str(home),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
        "AUTORESEARCH_CACHE": str(prepare.cache_dir().parent),
        "AUTORESEARCH_RUN": spec.run,
        "AUTORESEARCH_PROFILE": spec.profile,
        "AUTORESEARCH_DEVICE": spec.device,
        "AUTORESEARCH_SEED": str(spec.seed),
        "AUTORESEARCH_BUDGET_SECONDS": str(spec.budget),
        "AUTORESEARCH_WEIGHTS": str(home / "weights.pt"),
        "AUTORESEARCH_FACTS": str(home / "facts.json"),
    }
    if spec.preflight:
        env["AUTORESEARCH_PREFLIGHT"] = "1"
    if spec.device == "cpu":
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if home != place.home:
        env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # the model's processes share no memory
    return env


def lend_compiled(place: Place) -> None:
    """Give training a copy of what torch compiled for code that is trusted; its own stays its own.

    A cache that edited code can write would carry weights from one run to the next.
    """
    for name in COMPILED:
        kept = _compiled() / name
        if kept.is_dir():
            shutil.copytree(kept, place.home / name, dirs_exist_ok=True)


def keep_compiled(place: Place) -> None:
    """Keep what torch compiled in a run of trusted code for the runs to come; the first one stays."""
    for name in COMPILED:
        made = place.home / name
        if made.is_dir() and not (_compiled() / name).exists():
            copy = _compiled() / f"{name}.{os.getpid()}.tmp"
            shutil.copytree(made, copy)
            try:
                copy.rename(_compiled() / name)
            except OSError:  # another run was first
                shutil.rmtree(copy, ignore_errors=True)


def _compiled() -> Path:
    return prepare.cache_dir().with_name("compiled")


# ---------------------------------------------------------------------------
# Boxes
# ---------------------------------------------------------------------------


def wake_driver(spec: Spec) -> None:
    """Have a GPU's driver make its device files: CUDA asks a setuid program to, which a box does not run."""
    program = shutil.which("nvidia-modprobe")
    if spec.device == "cuda" and program and not Path("/dev/nvidia-uvm").exists():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([program, "-u", "-c", "0"], capture_output=True, timeout=30, check=False)


def training_box(spec: Spec, place: Place) -> Box:
    """Return the box of the process that trains: it reads the training rows and writes its home."""
    shared = (SHARED_MEMORY,) if spec.device == "cuda" else ()
    return _box(spec, place, reads=(), writes=(str(place.home), *shared))


def serving_box(spec: Spec, place: Place, number: int) -> Box:
    """Return the box of a process that answers for the model: it reads the weights, too."""
    return _box(spec, place, reads=(str(place.model),), writes=(str(place.serving(number)),))


def _box(spec: Spec, place: Place, reads: tuple[str, ...], writes: tuple[str, ...]) -> Box:
    gpus = [str(path) for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern)]
    read, listed = _programs()
    own = [str(prepare.cache_dir() / name) for name in TRAINING_FILES]
    own += [str(place.root / "code"), *map(str, sorted(HERE.glob("*.py")))]
    alone = spec.device == "cpu"
    told = [f"/proc/{name}" for name in MACHINE] if alone else ["/proc"]
    return Box(
        read=(*read, *told, *own, *reads),
        listed=(*listed, str(HERE)),
        write=writes,
        devices=(*DEVICES, *(gpus if spec.device == "cuda" else ())),
        processes=not alone,
        itself=alone,
        unix_sockets=spec.device == "cuda",  # its driver makes one, with an abstract name
        named_threads=spec.device == "cuda",  # cuInit() fails (error 304) where it cannot name its thread
        memory_bytes=spec.memory_bytes if alone else None,
        file_bytes=spec.disk_bytes,
    )


def _programs() -> tuple[list[str], list[str]]:
    """Return where interpreter, packages and the system's libraries lie: what is whole, and what is not.

    Hidden in them is the text that is trained on, which the package `autoresearch` brings along.
    """
    linked = [path for path in sys.path if any(Path(path).glob("*.dist-info"))]  # by .pth files
    found = (*site.getsitepackages(), *linked, sysconfig.get_path("stdlib"))
    packages = [Path(path).resolve() for path in found]
    libraries = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), os.environ.get("CUDA_HOME", "")]
    roots = [*map(Path, SYSTEM), Path(sys.prefix), Path(sys.base_prefix), *packages]
    roots += [Path(path) for path in libraries if path.startswith("/")]
    texts = [package / "autoresearch" / "scaffold" / "train" / "data" for package in packages]
    hidden = [path for path in (*texts, HERE, prepare.cache_dir().parent.resolve()) if path.exists()]
    home = Path.home().resolve()
    parts: dict[str, bool] = {}
    for root in dict.fromkeys(path.resolve() for path in roots if path.exists()):
        if root != home and root not in home.parents:
            parts |= {str(path): whole for path, whole in sandbox.without(root, hidden)}
    return [p for p, whole in parts.items() if whole], [p for p, whole in parts.items() if not whole]
