"""Every test, in two runs at once: those with real servers, and beside them all others, with less right to a core.

Live tests wait for the better part of their time; one after the other, the two take twice as long. With arguments, or
where there is one core, it is plain pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

_NICE = 15


def main(arguments: list[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", *arguments]
    if arguments or (os.cpu_count() or 1) < 2:
        return subprocess.run(pytest, check=False).returncode
    with tempfile.TemporaryFile("w+") as said:
        others = [*pytest, "-m", "not live", "-p", "no:cacheprovider"]
        beside = subprocess.Popen(["nice", "-n", f"{_NICE}", *others], stdout=said, stderr=subprocess.STDOUT)
        try:
            live = subprocess.run([*pytest, "-m", "live"], check=False).returncode
            code = beside.wait()
        finally:
            if beside.poll() is None:
                beside.terminate()
                beside.wait()
        said.seek(0)
        sys.stdout.write(said.read())
    return live or code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
