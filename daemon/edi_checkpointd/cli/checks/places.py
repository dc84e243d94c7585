"""Checks of the configuration, the folders, and their disks."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from edi_checkpoint.system.paths import HOME, Paths
from edi_checkpointd import config
from edi_checkpointd.cli.checks.finding import CheckResult, at_fault, fixed_by, skipped, well
from edi_checkpointd.cli.checks.setup import Setup, nearest
from edi_checkpointd.cli.output.screen import size

FREE_WANTED_BYTES = 128 << 20  # the largest state (64 MiB) must fit beside its previous checkpoint
FREE_WANTED_INODES = 1000
_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    (
        *("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
_MEMORY = frozenset(("tmpfs", "ramfs"))
_SYNCED_BY = {  # by the folder name that each program uses, before any " (Personal)" or " - Company"
    **{name.lower(): name for name in ("Dropbox", "Nextcloud", "OneDrive", "ownCloud", "Syncthing")},
    **dict.fromkeys(("google drive", "googledrive"), "Google Drive"),
    **dict.fromkeys(("mobile documents", "icloud drive", "iclouddrive"), "iCloud"),
}
_SYNC_MARK, _MARKED_BY = ".stfolder", "Syncthing"
_ESCAPE = re.compile(r"\\([0-7]{3})")
_MADE_AT_NEED = "does not exist yet, and can be created"


def configuration(setup: Setup) -> CheckResult:
    """Check the configuration file and the variables."""
    found = config.load(setup.paths, setup.environ)
    if found.warnings:
        return at_fault(found.warnings[0], "unset it, or correct its name")
    file, count = setup.paths.config, len(found.origins)
    where = str(file) if file.exists() else f"no file {file}"
    return well(f"{where}; {count} setting{'s' * (count != 1)} of your own")


def sessions_folder(setup: Setup) -> CheckResult:
    """Check that this user, and only this user, can write checkpoints."""
    return _folder(setup.paths.sessions)


def state_folder(setup: Setup) -> CheckResult:
    """Check that this user, and only this user, can write journal and outboxes."""
    return _folder(setup.paths.state)


def runtime_folder(setup: Setup) -> CheckResult:
    """Check that this user, and only this user, can create the socket."""
    return _folder(setup.paths.runtime)


def _folder(folder: Path) -> CheckResult:
    quoted = shlex.quote(str(folder))
    found = nearest(folder)
    if found != folder and (folder.is_symlink() or not found.is_dir()):
        away = shlex.quote(str(folder if folder.is_symlink() else found))
        return fixed_by(f"mv {away} {away}.moved", f"{folder} cannot be created: {away} is not a folder")
    if os.statvfs(found).f_flag & os.ST_RDONLY:
        remount = f"mount -o remount,rw {shlex.quote(str(_mount_of(found)[0]))}"
        return fixed_by(remount, f"the disk of {folder} is read-only")
    if found != folder:
        if os.access(found, os.W_OK | os.X_OK):
            return well(f"{folder} {_MADE_AT_NEED}")
        return fixed_by(f"chmod u+wx {shlex.quote(str(found))}", f"{folder} cannot be created: {found} is not writable")
    if not folder.is_dir():
        return fixed_by(f"mv {quoted} {quoted}.moved", f"{folder} is not a folder")
    us, status = os.geteuid(), folder.stat()
    if foreign := {folder.lstat().st_uid, status.st_uid} - {us}:
        message = f"{folder} belongs to uid {foreign.pop()}, but you are uid {us}"
        return fixed_by(f"sudo chown -hR {us} {quoted}", message)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return fixed_by(f"chmod 700 {quoted}", f"{folder} is open to other users (mode {mode:04o})")
    if mode & 0o700 != 0o700:
        return fixed_by(f"chmod 700 {quoted}", f"{folder} is closed to you (mode {mode:04o})")
    return well(f"{folder}, open only to you")


def disk_space(setup: Setup) -> CheckResult:
    """Check that the disks have room for what EDI publishes."""
    free = {folder: disk.f_bavail * disk.f_frsize for folder, disk in _disks(setup.paths)}
    folder, least = min(free.items(), key=lambda pair: pair[1])
    if least < FREE_WANTED_BYTES:
        remedy = f"free at least {size(FREE_WANTED_BYTES)} there; `edi-checkpoint prune` lists what can be deleted"
        return at_fault(f"{size(least)} free on the disk of {folder}", remedy)
    return well(f"{size(least)} free")


def inodes(setup: Setup) -> CheckResult:
    """Check that the file systems have room for more files."""
    free = {folder: disk.f_favail for folder, disk in _disks(setup.paths) if disk.f_files}
    if not free:
        return skipped("the file system does not limit the number of files")
    folder, least = min(free.items(), key=lambda pair: pair[1])
    if least < FREE_WANTED_INODES:
        return at_fault(f"the disk of {folder} has room for only {least} more files", "delete unneeded files there")
    return well(f"room for {least:,} more files")


def file_system(setup: Setup) -> CheckResult:
    """Check that the disk belongs to this machine, so that locks and fsync are reliable."""
    kinds = {}
    for folder in _on_disk(setup.paths):
        mount, kind = _mount_of(nearest(folder))
        if not kind:
            return skipped("this system does not report the kind")
        if fault := fault_of(kind):
            return at_fault(
                f"{folder} {fault} ({kind} on {mount})", f"set {HOME} to a folder on a disk of this machine"
            )
        kinds[kind] = mount
    return well(", ".join(sorted(kinds)))


def fault_of(kind: str) -> str | None:
    """Return what is wrong with a kind of file system, as the end of a sentence; None if nothing is known."""
    if kind in _NETWORK:
        return "is on a network file system, where neither locks nor SQLite are safe"
    if kind in _MEMORY:
        return "is in memory, and lost when the machine is switched off"
    return None


def sync_folder(setup: Setup) -> CheckResult:
    """Check that no other program copies or renames our files."""
    for folder in _on_disk(setup.paths):
        if by := synced_by(folder):
            remedy = f"set {HOME} to a folder that is not synchronised"
            return at_fault(f"{folder} is synchronised by {by}, which may lock, rename or copy its files", remedy)
    return well("not in a synchronised folder")


def synced_by(folder: Path) -> str | None:
    """Return the program that synchronises `folder`, recognised by folder names and marker files."""
    for place in (folder, *folder.parents):
        name = place.name.lower().split(" (")[0].split(" - ")[0]
        if name in _SYNCED_BY:
            return _SYNCED_BY[name]
        if os.path.lexists(place / _SYNC_MARK):
            return _MARKED_BY
    return None


def _on_disk(paths: Paths) -> Iterable[Path]:
    """Return the folders that must survive a power cut."""
    return paths.sessions, paths.state


def _disks(paths: Paths) -> Iterator[tuple[Path, os.statvfs_result]]:
    for folder in _on_disk(paths):
        yield folder, os.statvfs(nearest(folder))


def _mount_of(path: Path) -> tuple[Path, str]:
    """Return the mount point and the kind of the file system of `path`; the kind is empty if unknown.

    Of two mounts on one folder, the later one in the list hides the other.
    """
    mount, kind = Path("/"), ""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return mount, kind
    real = path.resolve()
    for line in lines:
        fields, _, rest = line.partition(" - ")  # proc(5), mountinfo: the fifth field is the mount point, octal-escaped
        folder = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields.split()[4]))
        if real.is_relative_to(folder) and len(folder.parts) >= len(mount.parts):
            mount, kind = folder, rest.split()[0]
    return mount, kind
