"""Settings of a daemon that runs and of clients that connect: who goes by what, and what a bad file does."""

from __future__ import annotations

import signal

import pytest
from harness import Home, Refused, eventually


def write(home: Home, text: str) -> None:
    home.folder.mkdir(exist_ok=True)
    (home.folder / "config.toml").write_text(text)


def settings(home: Home) -> dict[str, dict]:
    return {row["key"]: row for row in home.json("config")["values"]}


def test_a_daemon_goes_by_the_changed_file_at_sighup(home: Home) -> None:
    write(home, "keep_per_session = 5\n")
    daemon = home.daemon()
    publisher = home.publisher("s1")
    write(home, "# fewer\nkeep_per_session = 2\n")
    daemon.kill(signal.SIGHUP)
    daemon.wait_line(lambda line: line.endswith("setting changed: keep_per_session is 2 now, was 5"))
    for number in range(4):
        publisher.do(f"session.update(n={number})")
        publisher.do("session.checkpoint()")
    eventually(lambda: len(home.checkpoints("s1")) == 2)


def test_config_tells_what_the_running_daemon_goes_by_not_what_the_file_says(home: Home) -> None:
    write(home, "keep_sessions = 50\n")
    home.daemon("--trash-days", "3")
    write(home, "keep_sessions = 60\n")
    eventually(lambda: settings(home)["keep_sessions"]["value"] in (50, 60))  # it may have seen the change already
    rows = settings(home)
    assert rows["keep_sessions"].items() >= {"source": "file", "unit": "sessions"}.items()
    assert rows["trash_days"].items() >= {"value": 3.0, "source": "flag", "unit": "days"}.items()
    assert rows["autosave_every_s"].items() >= {"value": 5.0, "source": "default", "unit": "s"}.items()


def test_config_without_a_daemon_tells_what_one_would_go_by(home: Home) -> None:
    write(home, "\nkeep_sessions = 50\n")
    home.environment["EDI_CHECKPOINT_TRASH_DAYS"] = "1"
    rows = settings(home)
    assert (rows["keep_sessions"]["value"], rows["keep_sessions"]["source"]) == (50, "file")
    assert rows["keep_sessions"]["where"].endswith("config.toml line 2")
    assert (rows["trash_days"]["value"], rows["trash_days"]["source"]) == (1.0, "environment")
    lines = home.on_a_terminal("config", NO_COLOR="1").splitlines()
    assert lines[0].startswith("file ") and max(map(len, lines[1:])) <= 80
    assert ["keep_sessions", "50", "sessions", "file,", "line", "2"] in [line.split() for line in lines]


def test_config_names_file_key_and_line_of_what_a_daemon_would_refuse(home: Home) -> None:
    write(home, "\nkeep_session = 50\n")
    said = home.json("config", expect=2)["error"]
    assert said["code"] == "config"
    assert (
        "'keep_session' in" in said["message"]
        and "line 2 is not a setting; the closest one is keep_sessions" in said["message"]
    )


def test_a_bad_new_file_is_refused_the_old_settings_hold_and_status_says_why(home: Home) -> None:
    write(home, "keep_sessions = 50\n")
    daemon = home.daemon()
    write(home, "keep_sessions = 60\ntrash_days = -1\n")
    daemon.kill(signal.SIGHUP)
    daemon.wait_line(lambda line: "configuration refused" in line and "line 2: has to be a number of days" in line)
    assert settings(home)["keep_sessions"]["value"] == 50
    (trouble,) = home.json("status")["degraded"]
    assert trouble["code"] == "config_refused"
    assert "trash_days = -1" in trouble["message"] and "config.toml line 2" in trouble["message"]

    write(home, "keep_sessions = 60\n")
    daemon.kill(signal.SIGHUP)
    daemon.wait_line(lambda line: line.endswith("setting changed: keep_sessions is 60 now, was 50"))
    assert home.json("status")["degraded"] == []


def test_a_client_keeps_to_its_limits_from_the_file_with_and_without_a_daemon(home: Home) -> None:
    write(home, "value_max_depth = 3\nvalue_max_bytes = 2000\n")
    publisher = home.publisher("s1")
    publisher.do("session.update(fits=[[[1]]])")
    for value, said in (
        ("[[[[1]]]]", "nested in more than 3 containers"),
        ("'x' * 2000", "at most 2000 can be stored"),
    ):
        with pytest.raises(Refused, match=said):
            publisher.do(f"session.update(too_much={value})")
    assert publisher.do("sorted(session)") == ["fits"]


def test_a_client_thins_its_outbox_beyond_the_bytes_that_the_environment_says(home: Home) -> None:
    publisher = home.publisher("s1", EDI_CHECKPOINT_OUTBOX_MAX_BYTES="65536")
    publisher.do("[session.update(n=n, padding='x' * 100_000) for n in range(100)] and None")
    folder = home.state / "outbox" / "s1"
    eventually(
        lambda: publisher.do("session.update(n=101)") or sum(p.stat().st_size for p in folder.iterdir()) < 6 << 20
    )
    home.daemon()
    publisher.do("session.flush(timeout_s=20)")
    assert home.json("show", "s1")["state_info"]["n"] == 101


def test_a_bad_value_in_the_file_does_not_keep_edi_from_its_work(home: Home) -> None:
    write(home, "value_max_depth = 'deep'\n")
    code = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout)\n"
        "from edi_checkpoint import connect\n"
        "with connect() as client, client.session('s1') as session: session.update(n=[[[[1]]]])\n"
        "print('done')"
    )
    edi = home.python(code)
    edi.wait_line(lambda line: "value_max_depth = 'deep' in" in line and "config.toml line 1" in line)
    edi.wait_line("done")
    assert edi.wait() == 0
