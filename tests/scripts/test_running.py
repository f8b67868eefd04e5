"""A script under ``traj record`` finds everything as ``python script.py`` gives it, and ends as it would have ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from launching import QUIET, TRAJ, run

LOOKS_AROUND = """
import json, os, sys, warnings
assert "torch" not in sys.modules and "numpy" not in sys.modules and "pyarrow" not in sys.modules
import __main__
apart = ("__builtins__", "__loader__", "__spec__")
main = {k: repr(v) for k, v in vars(__main__).items() if k.startswith("__") and k not in apart}
main["spec"] = getattr(__spec__, "name", None)
main["loader"] = type(__loader__).__name__
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "main": main, "cwd": os.getcwd(), "same": __main__.__dict__ is globals(),
    "filters": list(map(repr, warnings.filters)), "flags": repr(sys.flags), "stdin": sys.stdin.read(),
    "excepthook": sys.excepthook is sys.__excepthook__, "environ": sorted(os.environ),
}))
warnings.warn("old", DeprecationWarning)
"""
SPAWNS = """
import multiprocessing, sys
class Mine:
    value = 7
def work(x):
    return [x + Mine().value, __name__, sys.argv[1:]]
if __name__ == "__main__":
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.map(work, [1, 2]))
"""


def both(tmp_path, words, **options):
    """(by python, recorded): how the script or module ended."""
    plain = run(sys.executable, *words, cwd=tmp_path, **options)
    at = words.index("-m") + 2 if "-m" in words else 1
    recorded = run(TRAJ, "record", *words[:at], "-o", tmp_path / "run", "--", *words[at:], cwd=tmp_path, **options)
    return plain, recorded


@pytest.mark.parametrize(
    "words", [["sub/look.py", "a", "--b=c", "--", "-o"], ["-m", "sub.look", "x"], ["-m", "sub"], ["sub"]]
)
def test_a_script_sees_what_python_shows_it(tmp_path, words):
    (tmp_path / "sub").mkdir()
    for name in ("look.py", "__main__.py", "__init__.py"):
        (tmp_path / "sub" / name).write_text(LOOKS_AROUND if name != "__init__.py" else "")
    plain, recorded = both(tmp_path, words, input="from stdin")
    assert (plain.code, recorded.code) == (0, 0), recorded.stderr
    one, two = json.loads(plain.stdout), json.loads(recorded.stdout)
    assert two == one
    assert recorded.stderr.startswith(plain.stderr)  # the DeprecationWarning of __main__
    assert "traj: nothing was recorded: it never imported torch.optim" in recorded.stderr


def test_workers_that_are_spawned_or_forked(tmp_path):
    (tmp_path / "spawns.py").write_text(SPAWNS)
    plain, recorded = both(tmp_path, ["spawns.py", "word"])
    assert recorded[:2] == plain[:2], recorded.stderr
    assert "__mp_main__" in plain.stdout


ENDINGS = {
    "raise": "def f():\n    raise OSError('x')\ntry:\n    f()\nexcept OSError as e:\n    raise KeyError('k') from e",
    "note": "e = RuntimeError('x')\ne.add_note('noted')\nraise e",
    "syntax": "x = (",
    "exit": "import sys\nsys.exit()",
    "exit 3": "import sys\nsys.exit(3)",
    "exit text": "import sys\nsys.exit('what is wrong')",
    "interrupt": "raise KeyboardInterrupt",
    "hook": "import sys\nsys.excepthook = lambda *a: print('my hook', a[0].__name__)\nraise OSError('x')",
    "atexit": "import atexit\natexit.register(print, 'bye')\n1 / 0",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "os exit": "import os\nprint('now', flush=True)\nos._exit(5)",
    "error of ours": "from trajectory_tools.errors import BadArgument\nraise BadArgument('theirs')",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_script_ends_as_it_would_have_ended(tmp_path, name):
    (tmp_path / "script.py").write_text(ENDINGS[name] + "\n")
    plain, recorded = both(tmp_path, ["script.py"])
    assert (recorded.code, recorded.stdout) == (plain.code, plain.stdout)
    assert recorded.stderr.startswith(plain.stderr)
    ours = recorded.stderr.removeprefix(plain.stderr).splitlines()
    assert ours == ([] if name == "os exit" else ["traj: nothing was recorded: it never imported torch.optim"])


def test_ctrl_c(tmp_path):
    """The process dies of the signal, as python does, so that a shell's loop around it ends, too."""
    ready = tmp_path / "ready"
    (tmp_path / "waits.py").write_text(
        "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)\n"
    )
    command = [str(TRAJ), "record", "waits.py", "-o", "run"]
    with subprocess.Popen(command, cwd=tmp_path, env=QUIET, stderr=subprocess.PIPE, text=True) as process:
        while not ready.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert complaint.splitlines()[-2:] == [
        "KeyboardInterrupt",
        "traj: nothing was recorded: it never imported torch.optim",
    ]
    assert "trajectory_tools" not in complaint
    assert f'File "{tmp_path / "waits.py"}", line 4' in complaint


def test_modules_of_the_scripts_folder_come_before_those_that_traj_has_imported(tmp_path):
    (tmp_path / "typer.py").write_text("NAME = 'my typer'\n")
    (tmp_path / "shlex.py").write_text("NAME = 'my shlex'\n")
    (tmp_path / "script.py").write_text("import shlex, typer\nprint(typer.NAME, shlex.NAME)\n")
    plain, recorded = both(tmp_path, ["script.py"])
    assert recorded[:2] == plain[:2] == (0, "my typer my shlex\n")


def test_the_columns_and_compressions_are_those_of_the_store():
    from trajectory_tools.cli.record_script import COLUMNS, COMPRESSIONS
    from trajectory_tools.store import schema, writer

    assert (COLUMNS, COMPRESSIONS) == (schema.VALUE_COLUMNS, writer.COMPRESSIONS)
