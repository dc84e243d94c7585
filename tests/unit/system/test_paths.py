from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edi_checkpoint.errors import ConfigError, FolderError
from edi_checkpoint.system import paths as paths_module
from edi_checkpoint.system.paths import Paths, ensure_private, locate, socket_path

OTHER_UID = 54321
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user needs root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def as_other_user() -> Iterator[None]:
    os.seteuid(OTHER_UID)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_tmp(tmp_path: Path) -> Path:
    """A folder that every user can reach and write, which pytest's own is not."""
    above = Path(tempfile.gettempdir())
    for place in (tmp_path, *tmp_path.parents):
        if not place.is_relative_to(above) or place == above:
            break
        place.chmod(0o755)
    tmp_path.chmod(0o777)
    return tmp_path


# locate: one variable for all, one for each


def test_one_variable_puts_everything_under_one_folder() -> None:
    assert locate({"EDI_CHECKPOINT_HOME": "/x"}) == Paths(
        Path("/x/sessions"), Path("/x/state"), Path("/x/run"), Path("/x/config.toml")
    )


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("EDI_CHECKPOINT_SESSIONS_DIR", "sessions"),
        ("EDI_CHECKPOINT_STATE_DIR", "state"),
        ("EDI_CHECKPOINT_RUNTIME_DIR", "runtime"),
        ("EDI_CHECKPOINT_CONFIG", "config"),
    ],
)
@pytest.mark.parametrize("base", [{"EDI_CHECKPOINT_HOME": "/x"}, {"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/none"}])
def test_a_single_variable_moves_its_place_and_no_other(variable: str, field: str, base: dict[str, str]) -> None:
    before, after = locate(base), locate(base | {variable: "/elsewhere"})
    for name in ("sessions", "state", "runtime", "config"):
        assert getattr(after, name) == (Path("/elsewhere") if name == field else getattr(before, name))


def test_everything_below_the_four_places_has_its_fixed_name() -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": "/x"})
    fixed = [name for name, member in vars(Paths).items() if isinstance(member, paths_module._Below)]
    assert {name: str(getattr(paths, name)) for name in fixed} == {
        "socket": "/x/run/daemon.sock",
        "journal": "/x/state/journal.sqlite",
        "outbox": "/x/state/outbox",
        "damaged": "/x/state/damaged",
        "log": "/x/state/daemon.log",
        "reserve": "/x/state/reserve",
        "forgetting": "/x/state/forgetting.json",
        "damaged_documents": "/x/sessions/damaged",
        "attachments": "/x/sessions/attachments",
        "trash": "/x/sessions/trash",
        "lock": "/x/sessions/.daemon.lock",
        "marker": "/x/sessions/.edi-checkpoint",
        "importing": "/x/sessions/.importing",
    }


def test_without_variables_the_places_are_edi_s_and_xdg_s() -> None:
    paths = locate({"HOME": "/home/ann"})
    assert paths.sessions == Path("/home/ann/.edi/sessions")
    assert paths.state == Path("/home/ann/.local/state/edi-checkpoint")
    assert paths.config == Path("/home/ann/.config/edi-checkpoint/config.toml")


def test_the_process_s_own_environment_gives_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("EDI_CHECKPOINT_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/ann")
    assert locate() == locate({"HOME": "/home/ann"})


def test_only_the_given_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/leaked")
    monkeypatch.setenv("EDI_CHECKPOINT_HOME", "/leaked")
    assert locate({"HOME": "/home/ann"}).state == Path("/home/ann/.local/state/edi-checkpoint")


def test_xdg_variables_move_state_and_config() -> None:
    paths = locate({"HOME": "/home/ann", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"})
    assert paths.state == Path("/s/edi-checkpoint")
    assert paths.config == Path("/c/edi-checkpoint/config.toml")


@pytest.mark.parametrize("value", ["", "state", "./state"])
def test_an_xdg_variable_without_an_absolute_path_is_ignored_as_its_specification_says(value: str) -> None:
    assert locate({"HOME": "/home/ann", "XDG_STATE_HOME": value}) == locate({"HOME": "/home/ann"})


@pytest.mark.parametrize(("text", "place"), [("~", "/home/ann"), ("~/x", "/home/ann/x"), ("~//x", "/home/ann/x")])
def test_a_tilde_means_the_home_folder(text: str, place: str) -> None:
    assert locate({"HOME": "/home/ann", "EDI_CHECKPOINT_HOME": text}).sessions == Path(place) / "sessions"


def test_an_empty_variable_counts_as_unset() -> None:
    assert locate({"HOME": "/home/ann", "EDI_CHECKPOINT_HOME": ""}) == locate({"HOME": "/home/ann"})


@pytest.mark.parametrize(
    "variable",
    [
        "EDI_CHECKPOINT_HOME",
        "EDI_CHECKPOINT_SESSIONS_DIR",
        "EDI_CHECKPOINT_STATE_DIR",
        "EDI_CHECKPOINT_RUNTIME_DIR",
        "EDI_CHECKPOINT_CONFIG",
    ],
)
@pytest.mark.parametrize("value", ["here", "./here", "../here", "~ann/here"])
def test_a_relative_path_is_refused_by_the_variable_s_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}=.*{value}.* is a relative path") as caught:
        locate({"HOME": "/home/ann", variable: value})
    assert f"set {variable} to a path that begins with /" in caught.value.hint


def test_a_relative_home_is_refused() -> None:
    with pytest.raises(ConfigError, match="HOME='here' is a relative path") as caught:
        locate({"HOME": "here"})
    assert "EDI_CHECKPOINT_HOME" in caught.value.hint


def test_without_home_the_user_database_is_asked() -> None:
    assert locate({}).sessions == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".edi" / "sessions"


def test_a_user_without_any_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: OTHER_UID)
    with pytest.raises(ConfigError, match=f"no home folder: HOME is not set and uid {OTHER_UID}") as caught:
        locate({})
    assert "EDI_CHECKPOINT_HOME" in caught.value.hint


def test_no_home_is_needed_where_everything_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: OTHER_UID)
    assert locate({"EDI_CHECKPOINT_HOME": "/x"}).sessions == Path("/x/sessions")


# locate: the runtime folder


def test_the_session_s_runtime_folder_comes_first(tmp_path: Path) -> None:
    environ = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert locate(environ).runtime == tmp_path / "edi-checkpoint"


def test_without_any_runtime_folder_it_lies_in_the_state_folder_wherever_that_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_UID)  # who has no /run/user/<uid>
    assert locate({"HOME": "/home/ann"}).runtime == Path("/home/ann/.local/state/edi-checkpoint/run")
    assert locate({"HOME": "/home/ann", "EDI_CHECKPOINT_STATE_DIR": "/s"}).runtime == Path("/s/run")


def test_the_standard_runtime_folder_is_taken_when_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    standard = Path(f"/run/user/{os.geteuid()}")
    monkeypatch.setattr(paths_module, "_is_ours", lambda folder, missing: folder == standard)
    assert locate({"HOME": "/home/ann"}).runtime == standard / "edi-checkpoint"


def test_a_temporary_folder_shared_with_everybody_is_never_the_runtime_folder(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    environ = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": str(shared), "TMPDIR": str(shared)}
    assert shared not in locate(environ).runtime.parents


@only_root
def test_the_runtime_folder_of_another_user_is_not_taken(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER_UID, OTHER_UID)
    assert tmp_path not in locate({"HOME": "/home/ann", "XDG_RUNTIME_DIR": str(tmp_path)}).runtime.parents


# socket_path


def with_socket_of(size_bytes: int) -> Paths:
    runtime = "/" + "r" * (size_bytes - len("//daemon.sock"))
    return locate({"EDI_CHECKPOINT_HOME": "/x", "EDI_CHECKPOINT_RUNTIME_DIR": runtime})


def test_the_longest_socket_path_that_the_kernel_takes_is_taken() -> None:
    assert len(socket_path(with_socket_of(107))) == 107


def test_a_longer_socket_path_is_refused_with_the_remedy() -> None:
    with pytest.raises(FolderError, match="has 108 bytes, 107 are possible") as caught:
        socket_path(with_socket_of(108))
    assert "EDI_CHECKPOINT_RUNTIME_DIR" in caught.value.hint


def test_the_socket_path_is_counted_in_bytes() -> None:
    paths = locate({"EDI_CHECKPOINT_HOME": "/" + "ü" * 50})
    with pytest.raises(FolderError, match="has 117 bytes"):
        socket_path(paths)


def test_a_socket_path_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(FolderError, match="not UTF-8"):
        socket_path(locate({"EDI_CHECKPOINT_HOME": "/x\udcff"}))


# ensure_private


@pytest.fixture
def wide_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.usefixtures("wide_umask")
def test_a_new_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    ensure_private(tmp_path / "a" / "b" / "c")
    assert mode(tmp_path / "a" / "b" / "c") == 0o700


@pytest.mark.parametrize("wider", [0o755, 0o777, 0o710, 0o701])
def test_a_wider_folder_of_ours_is_tightened(tmp_path: Path, wider: int) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    folder.chmod(wider)
    ensure_private(folder)
    assert mode(folder) == 0o700


def test_making_a_folder_private_again_changes_nothing(tmp_path: Path) -> None:
    ensure_private(tmp_path / "f")
    (tmp_path / "f" / "kept").touch()
    ensure_private(tmp_path / "f")
    assert (tmp_path / "f" / "kept").exists()


def test_only_the_last_folder_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ensure_private(tmp_path / "f")
    assert mode(tmp_path) == 0o755


def test_a_link_made_by_its_user_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o755)
    (tmp_path / "sessions").symlink_to("disk")
    ensure_private(tmp_path / "sessions")
    assert mode(tmp_path / "disk") == 0o700


@only_root
def test_a_link_planted_by_somebody_else_is_refused_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours").chmod(0o755)
    (tmp_path / "sessions").symlink_to("ours")
    os.chown(tmp_path / "sessions", OTHER_UID, OTHER_UID, follow_symlinks=False)
    with pytest.raises(FolderError, match=f"the link {tmp_path}/sessions belongs to uid {OTHER_UID}"):
        ensure_private(tmp_path / "sessions")
    assert mode(tmp_path / "ours") == 0o755


@only_root
def test_a_link_of_ours_into_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", OTHER_UID, OTHER_UID)
    (tmp_path / "sessions").symlink_to("theirs")
    with pytest.raises(FolderError, match=f"belongs to uid {OTHER_UID}"):
        ensure_private(tmp_path / "sessions")


@only_root
def test_root_in_the_folder_of_a_user_is_told_about_sudo(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER_UID, OTHER_UID)
    tmp_path.chmod(0o755)
    with pytest.raises(
        FolderError, match=f"{tmp_path} belongs to uid {OTHER_UID}, this process runs as root"
    ) as caught:
        ensure_private(tmp_path)
    assert "sudo" in caught.value.hint
    assert "chown" not in caught.value.hint  # would take the user's own folder from him
    assert mode(tmp_path) == 0o755


@only_root
def test_a_user_in_a_folder_left_by_sudo_is_told_how_to_get_it_back(open_tmp: Path, as_other_user: None) -> None:
    os.seteuid(0)
    (open_tmp / "sess ions").mkdir(mode=0o700)
    os.seteuid(OTHER_UID)
    with pytest.raises(FolderError, match=f"belongs to root, this process runs as uid {OTHER_UID}") as caught:
        ensure_private(open_tmp / "sess ions")
    assert f"`sudo chown -hR {OTHER_UID} '{open_tmp}/sess ions'`" in caught.value.hint


@only_root
def test_a_link_of_ours_into_a_closed_folder_names_its_owner(open_tmp: Path, as_other_user: None) -> None:
    os.seteuid(0)
    (open_tmp / "theirs").mkdir(mode=0o700)
    os.seteuid(OTHER_UID)
    (open_tmp / "sessions").symlink_to("theirs")
    with pytest.raises(FolderError, match="sessions belongs to root"):
        ensure_private(open_tmp / "sessions")


@only_root
def test_a_folder_put_in_place_between_look_and_change_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").mkdir()
    open_descriptor = os.open

    def swapped_before_open(path: Path, flags: int) -> int:
        (tmp_path / "f").chmod(0o755)
        os.chown(tmp_path / "f", OTHER_UID, OTHER_UID)
        return open_descriptor(path, flags)

    monkeypatch.setattr(os, "open", swapped_before_open)
    with pytest.raises(FolderError, match=f"belongs to uid {OTHER_UID}"):
        ensure_private(tmp_path / "f")
    assert mode(tmp_path / "f") == 0o755


@only_root
def test_a_user_who_may_not_make_the_folder_is_told_what_forbids_it(open_tmp: Path, as_other_user: None) -> None:
    os.seteuid(0)
    (open_tmp / "edi").mkdir(mode=0o755)
    os.seteuid(OTHER_UID)
    with pytest.raises(FolderError, match=f"{open_tmp}/edi has mode 0755 and belongs to root") as caught:
        ensure_private(open_tmp / "edi" / "sessions")
    assert "EDI_CHECKPOINT_HOME" in caught.value.hint


@only_root
def test_a_folder_of_ours_that_cannot_be_written_is_refused(open_tmp: Path, as_other_user: None) -> None:
    (open_tmp / "f").mkdir(mode=0o500)
    with pytest.raises(FolderError, match="cannot be written: its mode is 0500") as caught:
        ensure_private(open_tmp / "f")
    assert "chmod 700" in caught.value.hint


def test_a_file_system_that_keeps_no_modes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)
    with pytest.raises(FolderError, match="stays open to other users \\(mode 0777\\)"):
        ensure_private(tmp_path)


@pytest.mark.parametrize("below", ["", "sessions", "a/sessions"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "f").write_text("kept")
    with pytest.raises(FolderError, match="a file or a broken link stands where a folder has to be"):
        ensure_private(tmp_path / "f" / below)
    assert (tmp_path / "f").read_text() == "kept"


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("nothing")
    with pytest.raises(FolderError, match="f cannot be made or opened: No such file"):
        ensure_private(tmp_path / "f")


def test_a_name_that_the_file_system_refuses_ends_in_a_folder_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="File name too long"):
        ensure_private(tmp_path / ("n" * 300))


def test_importing_paths_loads_no_library() -> None:
    code = "import sys, edi_checkpoint.system.paths; sys.exit('platformdirs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
