"""The report in a real browser: nothing overflows, nothing is complained about, both colour schemes are readable."""

import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the PATH")

# What the page cannot say of itself, as it has no script: measured by a page around it, in a frame 400 px wide.
PROBE = """<!doctype html><meta charset="utf-8"><body>
<iframe id="f" src="report.html" width="400" height="900"></iframe>
<script>
f.onload = () => {
  const d = f.contentDocument, root = d.documentElement, said = [];
  said.push(`width ${root.clientWidth} of ${root.scrollWidth}`);
  const wide = [...d.body.children].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1);
  said.push(`wide ${wide.length}`);
  const drawings = [...d.querySelectorAll("figure svg")];
  said.push(`drawings ${drawings.filter(s => s.getBoundingClientRect().height > 100).length} of ${drawings.length}`);
  const ids = [...d.querySelectorAll("nav a")].filter(a => !d.getElementById(a.hash.slice(1)));
  said.push(`dead ${ids.length}`);
  const lines = [...d.querySelectorAll("figure svg path")].filter(p => p.style.stroke.startsWith("var(--series"));
  said.push(`colours ${new Set(lines.map(p => f.contentWindow.getComputedStyle(p).stroke)).size}`);
  document.title = said.join("; ");
};
</script>"""


def browse(page: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--allow-file-access-from-files"]
    if os.name == "posix" and os.geteuid() == 0:
        command.append("--no-sandbox")
    return subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)


def test_it_fits_400_pixels_and_no_console_message_appears(report, tmp_path):
    shutil.copy(report, tmp_path / "report.html")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE)
    done = browse(probe, tmp_path, "--virtual-time-budget=20000", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    found = re.search("<title>(.*?)</title>", done.stdout)
    assert found, done.stdout[:500]
    assert found[1] == "width 400 of 400; wide 0; drawings 12 of 12; dead 0; colours 3"


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_the_background_follows_the_colour_scheme(report, tmp_path, scheme, dark):
    shot = tmp_path / "shot.png"
    options = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=800,600", f"--screenshot={shot}")
    browse(report, tmp_path, *options)
    assert (sum(first_pixel(shot.read_bytes())) < 200) is dark


def first_pixel(png: bytes) -> bytes:
    """Red, green and blue of the picture's first pixel, which no filter changes."""
    data, at = b"", 8
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(data)[1:4]
