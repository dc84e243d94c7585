"""Real disks that are small, fail, or turn read-only. If mounting is not allowed, the test is skipped."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


class SmallDisk:
    """A tmpfs at `folder`, with options such as `size=4m`."""

    def __init__(self, folder: Path, options: str) -> None:
        """Make and mount the disk; skip the test if that is not allowed."""
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs", folder]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")

    def fill(self) -> None:
        """Fill the disk to its last block."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def empty(self) -> None:
        """Free the blocks again."""
        self._filler.unlink()

    def close(self) -> None:
        """Unmount the disk, even if a process has a file open there."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)


class TurningDisk:
    """An ext4 file system of 16 MiB that turns read-only under open files, as after a disk error."""

    def __init__(self, place: Path) -> None:
        """Make and mount the disk below `place`; skip the test if that is not possible."""
        self.folder = place / "disk"
        self.folder.mkdir()
        self._image = place / "disk.image"
        with self._image.open("wb") as file:
            file.truncate(16 << 20)
        if not shutil.which("mkfs.ext4"):
            pytest.skip("no mkfs.ext4")
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        command = ["mount", "-o", "loop,errors=remount-ro", self._image, self.folder]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("no loop device can be mounted")

    def turn(self) -> None:
        """Make the kernel find an error."""
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        (device,) = [Path(what).name for what, where, *_ in mounts if where == str(self.folder)]
        (Path("/sys/fs/ext4") / device / "trigger_fs_error").write_text("a test")

    def mount_anew(self) -> None:
        """Mount a copy of the disk, as after a restart of the machine.

        The disk itself would stay read-only if another namespace has it mounted, too.
        """
        self.close()
        copy = self._image.with_suffix(".copy")
        shutil.copyfile(self._image, copy)
        self._image = copy
        self._mount()

    def close(self) -> None:
        """Unmount the disk, even if a process has a file open there."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)


def built(source: str, folder: Path) -> Path:
    """Return the library built from a C file beside this one, for LD_PRELOAD; skips the test without a compiler."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip(f"no C compiler: {source} cannot be built")
    library = (folder / source).with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, TESTS / source, "-ldl"], check=True)
    return library
