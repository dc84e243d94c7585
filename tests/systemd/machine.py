"""Boots a Debian with a real systemd in it, and runs `steps.py` there as a user: `make systemd-test`.

Needs root, systemd-nspawn and debootstrap (Debian packages systemd-container and debootstrap). The root made by
debootstrap, from $DEBIAN_MIRROR if that is set, is kept below $XDG_CACHE_HOME; what the test does happens in a copy of
it. With EDI_TEST_FULL=1 there are 50 restarts in ten minutes instead of 5. The last line of stdout is
`systemd-test: steps=<n> passed=<n>` (exit 1 if they differ) or `systemd-test: skipped (<reason>)`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RELEASE = "bookworm"
PYTHON = "3.11"  # of that release
PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,python3-venv,procps"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
BOOT_TIMEOUT_S = 240 if not os.environ.get("EDI_TEST_FULL") else 1200
UNIT = """\
[Unit]
After=multi-user.target user@1000.service
[Service]
Type=oneshot
User=ann
Environment=XDG_RUNTIME_DIR=/run/user/1000 EDI_TEST_FULL={full}
ExecStart=/home/ann/venv/bin/python /srv/tests/systemd/steps.py {boot}
ExecStopPost=+/bin/systemctl poweroff
StandardOutput=append:/srv/told
StandardError=append:/srv/told
TimeoutStartSec=infinity
"""


class Skipped(Exception):
    """The machine cannot be made here; the message says why."""


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(*words: str | Path, why: str) -> None:
    """Run a command; `Skipped` with `why` if it fails, its complaint is on stderr."""
    if subprocess.run(words, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False).returncode:
        raise Skipped(why)


def cached_root() -> Path:
    """Return the root that debootstrap made, now or once before."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edi-checkpoint-systemd-test"
    root, begun = cache / RELEASE, cache / f"{RELEASE}.begun"
    if not root.exists():
        note(f"making a Debian {RELEASE} in {root}, once; this takes a minute or two")
        shutil.rmtree(begun, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        words = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, begun, MIRROR)
        run(*words, why="debootstrap could not fetch the packages")
        begun.rename(root)
    return root


def wheels(folder: Path) -> None:
    """Put our wheel and all that it needs in the machine into `folder`."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY, why="our own wheel cannot be built")
    (ours,) = folder.glob("edi_checkpoint-*.whl")
    platforms = [
        f"--platform={tag}_{platform.machine()}" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
    ]
    run(
        *pip, "download", "--dest", folder, "--only-binary=:all:", f"--python-version={PYTHON}", *platforms,
        f"{ours}[daemon]", why="the Python packages could not be fetched",
    )  # fmt: skip


def furnish(root: Path) -> None:
    """Give the machine a user who lingers, with our package in an environment of theirs."""
    wheels(root / "srv" / "wheels")
    shutil.copytree(REPOSITORY / "tests", root / "srv" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    venv = "/home/ann/venv"
    install = f"{venv}/bin/pip -q install --no-index --find-links /srv/wheels 'edi-checkpoint[daemon]'"
    script = (
        "useradd --create-home --uid 1000 ann && mkdir -p /var/lib/systemd/linger && touch /var/lib/systemd/linger/ann"
        f' && runuser -u ann -- sh -c "python3 -m venv {venv} && {install}"'
    )
    run("chroot", root, "sh", "-c", script, why="the machine could not be furnished")


def boot(root: Path, number: int) -> str:
    """Boot the machine, have the steps of this boot run, and return what they told."""
    units = root / "etc" / "systemd" / "system"
    (units / "steps.service").write_text(UNIT.format(boot=number, full=os.environ.get("EDI_TEST_FULL", "")))
    wanted = units / "multi-user.target.wants" / "steps.service"
    wanted.parent.mkdir(exist_ok=True)
    wanted.unlink(missing_ok=True)
    wanted.symlink_to("../steps.service")
    told = root / "srv" / "told"
    told.write_bytes(b"")
    log = root.parent / f"console-{number}.log"
    begun_s = time.monotonic()
    with log.open("wb") as console, told.open() as lines:
        machine = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "-D", root],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
        )  # fmt: skip
        try:
            while machine.poll() is None and time.monotonic() - begun_s < BOOT_TIMEOUT_S:
                sys.stderr.write(lines.read())
                time.sleep(0.2)
            sys.stderr.write(lines.read())
        finally:
            if machine.poll() is None:
                note("the machine does not end; it is ended")
                machine.terminate()
                try:
                    machine.wait(30)
                except subprocess.TimeoutExpired:
                    machine.kill()
                    machine.wait()
    if machine.returncode and not told.stat().st_size:
        note(log.read_text(errors="replace")[-3000:])
        raise Skipped(f"systemd-nspawn ended with {machine.returncode}, see above")
    return told.read_text()


def main() -> int:
    if os.geteuid() != 0:
        raise Skipped("needs root")
    for program, package in (("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap")):
        if shutil.which(program) is None:
            raise Skipped(f"no {program}: install the Debian package {package}")
    base = cached_root()
    with tempfile.TemporaryDirectory(prefix="machine-", dir=base.parent) as folder:
        root = Path(folder) / "root"
        run("cp", "--archive", "--reflink=auto", base, root, why="the root could not be copied")
        furnish(root)
        steps = passed = 0
        for number in (1, 2):
            note(f"boot {number}")
            told = boot(root, number)
            steps += told.count("\nstep ") + told.startswith("step ")
            passed += told.count("\npassed\n")
            if "\nall steps of this boot are done\n" not in told:
                steps += 1  # whatever it did not come to
    print(f"systemd-test: steps={steps} passed={passed}")
    return int(steps != passed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Skipped as reason:
        print(f"systemd-test: skipped ({reason})")
