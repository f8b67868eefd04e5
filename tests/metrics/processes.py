"""Python in a process of its own, for the tests."""

import json
import os
import subprocess
import sys
import textwrap


def python(code, *args, path=None, **environment):
    env = {**os.environ, **environment, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
