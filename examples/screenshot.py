"""Opens pages in headless Chromium, and draws the documentation's picture of `blox show`.

python examples/screenshot.py docs/pages/images/show.png
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from PIL import Image

from blox.zoo.cli.main import main

FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--hide-scrollbars',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    # Besides what a page asks for, Chromium itself would call home: no name resolves for it.
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    '--remote-debugging-pipe',
)
# The protocol is spoken on descriptors 3 and 4, which Popen cannot give by itself.
PIPES = ('sh', '-c', 'exec "$@" 3<&0 4>&1 >&2', 'sh')
SECONDS = 60


def find_chromium() -> str | None:
    """Return the command, None where it is not installed."""
    return shutil.which('chromium') or shutil.which('chromium-browser')


class Browser:
    """A page in a Chromium of its own, driven by the DevTools protocol.

    Attributes:
      events: what the page told since it was opened, as messages of the protocol.
    """

    def __init__(self) -> None:
        command = find_chromium()
        if command is None:
            raise FileNotFoundError('chromium: install it, as with apt-get install chromium')
        self.events: list[dict[str, Any]] = []
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        call = [*PIPES, command, *FLAGS, f'--user-data-dir={self._profile.name}', 'about:blank']
        self._process = subprocess.Popen(
            call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._messages, self._count, self._session = _messages(self._process.stdout), 0, {}
        page = self.ask('Target.createTarget', url='about:blank')['targetId']
        found = self.ask('Target.attachToTarget', targetId=page, flatten=True)
        self._session = {'sessionId': found['sessionId']}
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.ask(f'{domain}.enable')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._profile.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a call; events that come before it are kept."""
        self._count += 1
        call = {'id': self._count, 'method': method, 'params': params, **self._session}
        self._process.stdin.write(json.dumps(call).encode() + b'\0')
        self._process.stdin.flush()
        answer = self._until(lambda message: message.get('id') == self._count)
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']

    def open(self, address: str, width: int = 1300, height: int = 1000) -> None:
        """Load a page until all that it asks for is there."""
        size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
        self.ask('Emulation.setDeviceMetricsOverride', **size)
        self.events.clear()
        failed = self.ask('Page.navigate', url=address).get('errorText')
        if failed:
            raise RuntimeError(f'{address}: {failed}')
        if 'Page.loadEventFired' not in [event.get('method') for event in self.events]:
            self._until(lambda message: message.get('method') == 'Page.loadEventFired')

    def run(self, code: str) -> Any:
        """Return what JavaScript gives, or its promise in the end."""
        options = {'awaitPromise': True, 'returnByValue': True}
        answer = self.ask('Runtime.evaluate', expression=code, **options)
        if 'exceptionDetails' in answer:
            raise RuntimeError(answer['exceptionDetails']['exception']['description'])
        return answer['result'].get('value')

    def wait(self, condition: str) -> None:
        """Wait until JavaScript's condition holds."""
        look = f'const look = () => {condition} ? done() : setTimeout(look, 20)'
        self.run(f'new Promise(done => {{{look}; look()}})')

    def draw(self, out: Path) -> None:
        """Write what a reader sees as a PNG."""
        out.write_bytes(base64.b64decode(self.ask('Page.captureScreenshot')['data']))

    @property
    def errors(self) -> list[str]:
        """The errors in the page's console since it was opened."""
        told = [(event.get('method'), event.get('params', {})) for event in self.events]
        thrown = [p['exceptionDetails'] for name, p in told if name == 'Runtime.exceptionThrown']
        logged = [p['entry'] for name, p in told if name == 'Log.entryAdded']
        called = [p for name, p in told if name == 'Runtime.consoleAPICalled']
        return [
            *(error.get('exception', error).get('description', error['text']) for error in thrown),
            *(f'{e["text"]} {e.get("url", "")}' for e in logged if e['level'] == 'error'),
            *(str(call['args']) for call in called if call['type'] in ('error', 'assert')),
        ]

    @property
    def requests(self) -> list[str]:
        """The addresses that the page asked for, and was not kept from, its own first."""
        told = [(event.get('method'), event.get('params', {})) for event in self.events]
        ended = [p for name, p in told if name == 'Network.loadingFailed']
        blocked = {p['requestId'] for p in ended if 'blockedReason' in p}
        sent = [p for name, p in told if name == 'Network.requestWillBeSent']
        return [p['request']['url'] for p in sent if p['requestId'] not in blocked]

    def _until(self, found: Any) -> dict[str, Any]:
        for message in self._messages:
            if found(message):
                return message
            self.events.append(message)
        raise RuntimeError(f'chromium ended, or told nothing for {SECONDS} s')


def _messages(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    rest = b''
    while select.select([pipe], [], [], SECONDS)[0] and (found := os.read(pipe.fileno(), 65536)):
        *whole, rest = (rest + found).split(b'\0')
        yield from map(json.loads, whole)


# JavaScript for a page of a model: its tree, and a click on the line of a name.
TREE = "document.querySelector('treescope-container')?.shadowRoot?.querySelector('.treescope_root')"
LABELS = f"[...{TREE}.querySelectorAll('label')]"


def open_model(browser: Browser, page: Path, width: int = 1300, height: int = 1000) -> None:
    """Open a page of a model, once treescope has filled it."""
    browser.open(page.absolute().as_uri(), width, height)
    browser.wait(TREE)


def unfold(browser: Browser, name: str) -> None:
    """Click on the first line that starts with a name."""
    browser.run(f'{LABELS}.find(label => label.textContent.startsWith({name!r})).click()')


def draw(out: Path) -> None:
    """The top of the page of vit-digits, in few colors."""
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        page, shot = Path(folder) / 'show.html', Path(folder) / 'show.png'
        main(['show', 'vit-digits', '--html', str(page)], standalone_mode=False)
        open_model(browser, page, 1200, 1100)
        unfold(browser, 'pos_embed=')
        browser.draw(shot)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.open(shot).convert('RGB').quantize(256).save(out, optimize=True)


if __name__ == '__main__':
    draw(Path(sys.argv[1]))
