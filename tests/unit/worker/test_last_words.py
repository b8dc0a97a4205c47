"""What a failed program's log is said to end with: what its user would have seen on a terminal."""

import sys
import time
from pathlib import Path

import pytest

from services.worker.child.last_words import last_words, shown_lines
from tests.unit.worker.conftest import Run

BAR = " 50%|#####     | 50/100 [00:01<00:01, 49.9it/s]"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in <module>\n    run()\n'


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (b"", ""),
        (b"one\ntwo\n\n  \n", "two"),
        (b"no line end", "no line end"),
        (b"one\r\ntwo\r\n", "two"),
        (b"".join(b"\r%3d%%|%s| frames" % (n, b"#" * n) for n in range(101)) + b"\rdisk full", "disk full"),
        (b"frame= 100 fps=25\r", "frame= 100 fps=25"),
        (b"1%\b\b2%\b\b3%", "3%"),
        (b"\x1b[1;31mcodec\x1b[0m failed\x1b[K\n", "codec failed"),
        (b"\x1b]0;a title\x07\x1b(Bcodec failed\n\x1b[?25h\x1b[0m", "codec failed"),
        (b"a long line\x1b[6Dshort\x1b[K", "a lonshort"),
        (b"halfway\x1b[2K\x1b[1Gnow this", "now this"),
        (b"first\nsecond\x1b[1A\x1b[2K\rnew first\x1b[1B\n", "second"),
        (b"old screen\x1b[2J\x1b[Hnew screen", "new screen"),
        (b"old screen\x1b[2J\x1b[H", "old screen"),
        (b"bell\x07 and \x00nul", "bell and nul"),
        (b"caf\xe9 closed\n", "caf\N{REPLACEMENT CHARACTER} closed"),
        ("\ufeffcafé fermé\r\n".encode("utf-16-le"), "café fermé"),
        ("café fermé\n".encode("utf-16-be"), "café fermé"),
        (b"\x1b[999999999C\x1b[999999999B\x1b[999999999;999999999Hx" + b"\b" * 70_000 + b"far\x1b[K", "far"),
        (b"x" * 3_000_000 + b" the end\n", "… " + "x" * 492 + " the end"),
        (b"x" * 900 + b"\n", "x" * 500),
        (b"ok\n" + f"broken pipe to codec\r{BAR}\n".encode(), "ok"),
        (f"ok\nbroken pipe\n\r{BAR}\n".encode(), "broken pipe"),
        (f"\r{BAR}".encode(), BAR.strip()),
        (f"0%\r{BAR}\r100% full: ERROR ====\n".encode(), "100% full: ERROR ===="),
    ],
)
def test_the_last_line_is_what_a_terminal_shows_last(tmp_path: Path, printed: bytes, words: str) -> None:
    (tmp_path / "log").write_bytes(printed)
    assert last_words(tmp_path / "log").strip() == words


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("x.c:3:1: error: 'y' undeclared\nmake: *** [all] Error 2", "x.c:3:1: error: 'y' undeclared"),
        ("\x1b[31merror[E0308]\x1b[0m: mismatched types\n1 problem found", "error[E0308]: mismatched types"),
        (f"{TRACEBACK}KeyError: 'id'\ncleaning up", "KeyError: 'id'"),
        (f"{TRACEBACK}KeyError: 'id'\n\nDuring handling …\n\n{TRACEBACK}OSError: closed", "KeyError: 'id'"),
        (f"\r{BAR}{TRACEBACK}KeyError: 'id'\nbye", "KeyError: 'id'"),
        ('Exception in thread "main" java.io.IOException: gone\n\tat A.b(A.java:1)', "java.io.IOException: gone"),
        ("panic: index out of range\n\ngoroutine 1 [running]:\nexit status 2", "panic: index out of range"),
        ("2026-11-29 ERROR codec: no key\nretrying\ngave up", "2026-11-29 ERROR codec: no key"),
        ("sh: 1: pricee: not found\nnothing to do", "sh: 1: pricee: not found"),
        ("cp: cannot stat 'x': No such file or directory\ndone", "cp: cannot stat 'x': No such file or directory"),
    ],
)
def test_the_first_error_is_shown_beside_the_last_line(tmp_path: Path, printed: str, words: str) -> None:
    (tmp_path / "log").write_text(printed)
    told, _, beside = last_words(tmp_path / "log").partition(" (first error: ")
    assert told == printed.splitlines()[-1].strip()
    assert beside.endswith(f"{words})")


@pytest.mark.parametrize("printed", ["error: 0.02", "0 errors", "KeyError: 'id'", f"{TRACEBACK}KeyError: 'id'"])
def test_nothing_is_said_twice(tmp_path: Path, printed: str) -> None:
    (tmp_path / "log").write_text(printed)
    assert last_words(tmp_path / "log") == printed.splitlines()[-1]


def test_the_first_error_is_found_before_gigabytes_of_progress(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        log.write(b"ERROR: no key\n")
        log.seek(5 << 30)
        log.write(b"\r 50%" * 20_000 + b"\rgave up")
    began = time.process_time()
    assert last_words(tmp_path / "log") == "gave up (first error: ERROR: no key)"
    assert time.process_time() - began < 2


@pytest.mark.parametrize("pattern", [b"#", b"a.", b"\x1b]", b"\x1b[31mx", b"a\b", b"\n\x1b[A", b"1%|", b"\t"])
def test_no_log_takes_long_to_read(tmp_path: Path, pattern: bytes) -> None:
    (tmp_path / "log").write_bytes(pattern * (200_000 // len(pattern)))
    began = time.process_time()
    last_words(tmp_path / "log")
    assert time.process_time() - began < 3


def test_lines_of_an_installer() -> None:
    printed = b"Collecting x\n  1 MB\r  2 MB\r  3 MB\n\x1b[31mERROR: no matching distribution\x1b[0m\n"
    assert shown_lines(printed) == ["Collecting x", "  3 MB", "ERROR: no matching distribution", ""]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 126", "exit code 126: a program could not be executed"),
        ("no-such-program", "exit code 127: a program was not found: "),
        ("sh -c 'kill -SEGV $$'; exit $?", "exit code 139: killed by signal 11 (SIGSEGV)"),
        ("exit 137", "exit code 137: killed by signal 9 (SIGKILL); the node may be short of memory"),
        ("exit 143", "exit code 143: killed by signal 15 (SIGTERM)"),
        ("exit 255", "exit code 255"),
        ("kill -9 $$", "killed by signal 9 (SIGKILL); the node may be short of memory"),
        ("echo decoding; kill -ABRT $$", "killed by signal 6 (SIGABRT): decoding"),
    ],
)
async def test_how_a_program_ended(run: Run, script: str, message: str) -> None:
    answer = await run("command", arguments=["sh", "-c", script])
    assert answer["error"]["message"].startswith(message)


async def test_the_log_itself_stays_as_it_was_printed(run: Run, work: Path) -> None:
    script = r"import sys; sys.stdout.write('\r1%\r2%\x1b[31m failed'); sys.exit(3)"
    answer = await run("command", arguments=[sys.executable, "-c", script])
    assert answer["error"]["message"] == "exit code 3: 2% failed"
    assert (work / "log").read_bytes() == b"\r1%\r2%\x1b[31m failed"


async def test_what_a_function_raises_is_shown_alike(run: Run, user_code: Path) -> None:
    """Such as the standard error of a program, which it passes on."""
    (user_code / "passing.py").write_text(
        "import sys\n"
        "said = ''.join(f'\\r{n}%|####|' for n in range(1000)) + '\\r\\x1b[31mno codec\\x1b[0m'\n"
        "def raises(input, output): raise RuntimeError(said)\n"
        "def tells(input, output): raise ValueError('two\\nlines\\t\u2026')\n"
    )
    messages = [(await run("callable", function=f"passing:{name}"))["error"]["message"] for name in ("raises", "tells")]
    assert messages == ["RuntimeError: no codec", "ValueError: two\nlines\t\u2026"]
