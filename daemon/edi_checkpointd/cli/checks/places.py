"""The places: configuration, folders, and the disks that they lie on."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

from edi_checkpoint.paths import HOME, Paths
from edi_checkpointd import config
from edi_checkpointd.cli.checks.finding import Finding, at_fault, mended_by, not_said, well
from edi_checkpointd.cli.checks.setup import Setup, nearest
from edi_checkpointd.cli.screen import size

FREE_WANTED_BYTES = 128 << 20  # the largest state that can be (64 MiB) comes into a checkpoint beside the old one
FREE_WANTED_INODES = 1000
_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    (
        *("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
_MEMORY = frozenset(("tmpfs", "ramfs"))
_SYNCED_BY = {  # the name of a folder, as its maker has it, before any " (Personal)" or " - Company"
    "dropbox": "Dropbox",
    "google drive": "Google Drive",
    "googledrive": "Google Drive",
    "mobile documents": "iCloud",
    "icloud drive": "iCloud",
    "iclouddrive": "iCloud",
    "nextcloud": "Nextcloud",
    "onedrive": "OneDrive",
    "owncloud": "ownCloud",
    "syncthing": "Syncthing",
}
_SYNC_MARK, _MARKED_BY = ".stfolder", "Syncthing"
_ESCAPE = re.compile(r"\\([0-7]{3})")
_MADE_AT_NEED = "is not there yet, and can be made"


def configuration(setup: Setup) -> Finding:
    """The file and the variables can be used."""
    found = config.load(setup.paths, setup.environ)
    if found.warnings:
        return at_fault(found.warnings[0], "unset it, or correct its name")
    file, count = setup.paths.config, len(found.origins)
    where = str(file) if file.exists() else f"no file {file}"
    return well(f"{where}; {count} setting{'s' * (count != 1)} of your own")


def sessions_folder(setup: Setup) -> Finding:
    """Checkpoints can be written, by this user alone."""
    return _folder(setup.paths.sessions)


def state_folder(setup: Setup) -> Finding:
    """Journal and outboxes can be written, by this user alone."""
    return _folder(setup.paths.state)


def runtime_folder(setup: Setup) -> Finding:
    """The socket can be made, by this user alone."""
    return _folder(setup.paths.runtime)


def _folder(folder: Path) -> Finding:
    quoted = shlex.quote(str(folder))
    found = nearest(folder)
    if found != folder and (folder.is_symlink() or not found.is_dir()):
        away = shlex.quote(str(folder if folder.is_symlink() else found))
        return mended_by(f"mv {away} {away}.moved", f"{folder} cannot be made: {away} is no folder")
    if os.statvfs(found).f_flag & os.ST_RDONLY:
        remount = f"mount -o remount,rw {shlex.quote(str(_mount_of(found)[0]))}"
        return mended_by(remount, f"the disk of {folder} is read-only")
    if found != folder:
        if os.access(found, os.W_OK | os.X_OK):
            return well(f"{folder} {_MADE_AT_NEED}")
        return mended_by(f"chmod u+wx {shlex.quote(str(found))}", f"{folder} cannot be made: {found} is not writable")
    if not folder.is_dir():
        return mended_by(f"mv {quoted} {quoted}.moved", f"{folder} is no folder")
    us, status = os.geteuid(), folder.stat()
    if foreign := {folder.lstat().st_uid, status.st_uid} - {us}:
        message = f"{folder} belongs to uid {foreign.pop()}, and you are uid {us}"
        return mended_by(f"sudo chown -hR {us} {quoted}", message)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return mended_by(f"chmod 700 {quoted}", f"{folder} is open to other users (mode {mode:04o})")
    if mode & 0o700 != 0o700:
        return mended_by(f"chmod 700 {quoted}", f"{folder} is closed to you yourself (mode {mode:04o})")
    return well(f"{folder}, yours alone")


def disk_space(setup: Setup) -> Finding:
    """There is room for what EDI publishes."""
    free = {}
    for folder in _on_disk(setup.paths):
        disk = os.statvfs(nearest(folder))
        free[folder] = disk.f_bavail * disk.f_frsize
    folder, least = min(free.items(), key=lambda pair: pair[1])
    if least < FREE_WANTED_BYTES:
        remedy = f"free {size(FREE_WANTED_BYTES)} there at least; `edi-checkpoint prune` shows what of ours could go"
        return at_fault(f"{size(least)} free on the disk of {folder}", remedy)
    return well(f"{size(least)} free")


def inodes(setup: Setup) -> Finding:
    """There is room for more files."""
    free = {}
    for folder in _on_disk(setup.paths):
        disk = os.statvfs(nearest(folder))
        if disk.f_files:
            free[folder] = disk.f_favail
    if not free:
        return not_said("the file system does not count files")
    folder, least = min(free.items(), key=lambda pair: pair[1])
    if least < FREE_WANTED_INODES:
        return at_fault(f"the disk of {folder} takes {least} more files", "delete files there that you need no more")
    return well(f"{least:,} more files can be made")


def file_system(setup: Setup) -> Finding:
    """The disk is a disk of this machine: locks and fsync do what they say."""
    kinds = {}
    for folder in _on_disk(setup.paths):
        mount, kind = _mount_of(nearest(folder))
        if not kind:
            return not_said("this system does not tell of what kind it is")
        if fault := fault_of(kind):
            return at_fault(
                f"{folder} {fault} ({kind} on {mount})", f"set {HOME} to a folder on a disk of this machine"
            )
        kinds[kind] = mount
    return well(", ".join(sorted(kinds)))


def fault_of(kind: str) -> str | None:
    """Return what is wrong with a file system of a kind, as the end of a sentence; None for nothing that is known."""
    if kind in _NETWORK:
        return "lies on a network file system, where neither locks nor SQLite are safe"
    if kind in _MEMORY:
        return "lies in memory, and is gone when the machine is switched off"
    return None


def sync_folder(setup: Setup) -> Finding:
    """No other program copies or renames our files."""
    for folder in _on_disk(setup.paths):
        if by := synced_by(folder):
            remedy = f"set {HOME} to a folder that is not synchronised"
            return at_fault(f"{folder} is synchronised by {by}, which may lock, rename or double its files", remedy)
    return well("not inside a folder that is synchronised")


def synced_by(folder: Path) -> str | None:
    """Return the program that synchronises `folder`, as far as names and marks tell."""
    for place in (folder, *folder.parents):
        name = place.name.lower().split(" (")[0].split(" - ")[0]
        if name in _SYNCED_BY:
            return _SYNCED_BY[name]
        if os.path.lexists(place / _SYNC_MARK):
            return _MARKED_BY
    return None


def _on_disk(paths: Paths) -> Iterable[Path]:
    """Return the folders that have to outlive the machine's being switched off."""
    return paths.sessions, paths.state


def _mount_of(path: Path) -> tuple[Path, str]:
    """Return where the file system of `path` is mounted, and of what kind it is; an empty kind where that is not told.

    Of two mounts on one folder the later one, which is listed later, is what one sees.
    """
    mount, kind = Path("/"), ""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return mount, kind
    real = path.resolve()
    for line in lines:
        fields, _, rest = line.partition(" - ")  # proc(5), mountinfo: the fifth field is the folder, octal-escaped
        folder = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields.split()[4]))
        if real.is_relative_to(folder) and len(folder.parts) >= len(mount.parts):
            mount, kind = folder, rest.split()[0]
    return mount, kind
