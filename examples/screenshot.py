"""Opens a page in headless Chromium, and draws the documentation's picture of `blox show`.

python examples/screenshot.py docs/pages/images/show.png
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from blox.zoo.cli.main import main

# Besides what the page asks for, Chromium itself would call home: no name resolves for it.
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND',
    '--virtual-time-budget=40000',
)


def find_chromium() -> str | None:
    """The command, None where it is not installed."""
    return shutil.which('chromium') or shutil.which('chromium-browser')


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Opens a page with a profile of its own; what Chromium prints."""
    command = find_chromium()
    if command is None:
        raise FileNotFoundError('chromium: install it, as with apt-get install chromium')
    with tempfile.TemporaryDirectory() as profile:
        where = (f'--user-data-dir={profile}', page.absolute().as_uri())
        call = [command, *FLAGS, *flags, *where]
        return subprocess.run(call, capture_output=True, text=True, timeout=120)


# Chromium's virtual time does not wait for treescope to unpack a page, so each look takes a while.
WHEN_READY = """<script>
const tree = () =>
  document.querySelector('treescope-container').shadowRoot.querySelector('.treescope_root')
const unfold = name => [...tree().querySelectorAll('label')]
  .find(label => label.textContent.startsWith(name)).click()
let steps = 0
const whenReady = act => {
  for (let i = 0; i < 1e7; i++) steps += i % 3
  tree() ? act() : setTimeout(whenReady, 100, act)
}
</script>"""


def with_script(page: str, code: str) -> str:
    """A page with JavaScript that runs once treescope has filled it."""
    script = f'{WHEN_READY}<script>whenReady(() => {{{code}}})</script>'
    return page.replace('</body>', f'{script}</body>')


def draw(out: Path) -> None:
    """The top of the page of vit-digits, in few colors."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / 'show.html', Path(folder) / 'show.png'
        main(['show', 'vit-digits', '--html', str(page)], standalone_mode=False)
        page.write_text(with_script(page.read_text('utf-8'), "unfold('pos_embed=')"), 'utf-8')
        browse(page, '--window-size=1200,1100', '--hide-scrollbars', f'--screenshot={shot}')
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.open(shot).convert('RGB').quantize(256).save(out, optimize=True)


if __name__ == '__main__':
    draw(Path(sys.argv[1]))
