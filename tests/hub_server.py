"""A loopback server that speaks as much of the Hub's protocol as huggingface_hub's client asks for.

    with HubServer({'org/name': {'main': {'config.json': b'{}'}}}) as server:
        server.connect(monkeypatch, tmp_path)    # the client, in this process
        server.environment(tmp_path)             # or what another process needs

Branches and tags point to a commit made of their content, and may be moved with `put`. Files that
end as weights do are in LFS, as on the Hub.
"""

import base64
import hashlib
import json
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import close_session, constants

LFS = ('.safetensors', '.bin', '.npz', '.pth', '.h5', '.msgpack')

Files = dict[str, bytes]


def commit_of(files: Files) -> str:
    """The 40 hex digits that stand for this content."""
    listing = [(name, sha256(content)) for name, content in sorted(files.items())]
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


def digest(name: str, content: bytes) -> str:
    """What the Hub states of a file, and its ETag."""
    return (sha256 if name.endswith(LFS) else git_hash)(content)


@dataclass
class Fault:
    """How the answers to one of `methods` for one file are wrong, for the next `times` of the last.

    The first `after` of them are right. `body` takes the place of the content, `etag` and `commit` that of the headers; `cut` closes the
    connection after so many bytes; after half of the body, or before a HEAD's answer, it waits for
    `until`; `status` is all that comes. `headers` are more of them.
    """

    body: bytes | None = None
    etag: str | None = None
    commit: str | None = None
    cut: int | None = None
    until: threading.Event | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ('HEAD', 'GET')
    after: int = 0
    times: int = 1_000


@dataclass
class Repo:
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)


class HubServer:
    """Repositories {name: {revision: {file: content}}}, served while the block lasts.

    `private` and `gated` repositories open to `tokens` alone, which may also write. `renamed` maps
    old names to new ones. `faults` maps (repository, file) to a Fault, (repository, None) to one
    of its listing, ('lfs', None) to one of uploads. `listed` adds entries to every listing. `log`
    holds the requests as 'METHOD path', `agents` their user agents.
    """

    def __init__(self, repos: dict[str, dict[str, Files]] | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.tokens: set[str] = {'hf_good'}
        self.renamed: dict[str, str] = {}
        self.faults: dict[tuple[str, str | None], Fault] = {}
        self.listed: list[dict] = []
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        self.agents: set[str] = set()
        for repo, revisions in (repos or {}).items():
            for revision, files in revisions.items():
                self.put(repo, files, revision)
        self._server = _Server(('127.0.0.1', 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # pyright: ignore[reportAttributeAccessIssue]
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self) -> 'HubServer':
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on nothing answers here; once is enough."""
        self._server.shutdown()
        self._server.server_close()
        close_session()

    def put(self, repo: str, files: Files, revision: str = 'main') -> str:
        """Makes a revision of these files, moving a branch that is there; the commit."""
        commit = revision if _is_commit(revision) else commit_of(files)
        entry = self.repos.setdefault(repo, Repo())
        entry.commits[commit] = dict(files)
        entry.branches[revision] = commit
        return commit

    def environment(self, folder: object) -> dict[str, str]:
        """Variables for another process whose caches lie in `folder`."""
        return {
            'HF_ENDPOINT': self.url,
            'HF_HOME': f'{folder}/hf',
            'BLOX_CACHE': f'{folder}/blox',
            'HF_HUB_OFFLINE': '0',
            'HF_HUB_DISABLE_XET': '1',
            'HF_HUB_DISABLE_TELEMETRY': '1',
            'HF_HUB_DISABLE_PROGRESS_BARS': '1',
            'NO_PROXY': '127.0.0.1',
        }

    def connect(self, monkeypatch, folder: object) -> None:
        """Has the client in this process ask here, with its caches in `folder`."""
        for name, value in self.environment(folder).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv('HF_TOKEN', raising=False)
        values = {
            'ENDPOINT': self.url,
            'HUGGINGFACE_CO_URL_TEMPLATE': self.url + '/{repo_id}/resolve/{revision}/{filename}',
            'HF_HUB_CACHE': f'{folder}/hf/hub',
            'HF_TOKEN_PATH': f'{folder}/hf/token',
            'HF_HUB_OFFLINE': False,
            'HF_HUB_DISABLE_XET': True,
            'HF_HUB_DISABLE_TELEMETRY': True,
            'HF_HUB_DISABLE_PROGRESS_BARS': True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and set(revision) <= set('0123456789abcdef')


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def allowed(self) -> bool:
        return self.headers.get('Authorization', '').removeprefix('Bearer ') in self.hub.tokens

    def handle_any(self) -> None:
        self.hub.log.append(f'{self.command} {self.path}')
        self.hub.agents.add(self.headers.get('User-Agent', ''))
        address = urlsplit(self.path)
        self.parts = [unquote(part) for part in address.path.strip('/').split('/')]
        self.query = parse_qs(address.query)
        self.content = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.headers.get('Transfer-Encoding') == 'chunked':
            self.content = self._read_chunks()
        if self.command in ('POST', 'PUT'):
            self.write()
        elif self.parts[:2] == ['api', 'whoami-v2']:
            self.reply(200, {'name': 'user', 'type': 'user'}) if self.allowed else self.refuse(401)
        elif self.parts[:2] == ['api', 'models']:
            self.api(*self.split(self.parts[2:], ('revision', 'tree')))
        else:
            self.resolve(*self.split(self.parts, ('resolve',)))

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    # Reading.

    def api(self, repo: str, kind: str, rest: list[str]) -> None:
        """What a revision holds."""
        if not (found := self.find(repo, rest[0] if rest else 'main')):
            return
        commit, files = found
        fault = self.fault_of(repo, None)
        if fault.status or fault.body is not None:
            self.send(fault.status or 200, fault.body or b'', fault.headers)
        elif kind == 'tree':
            self.reply(200, [self.tree_entry(name, files[name]) for name in sorted(files)])
        else:
            siblings = [self.sibling(name, files[name]) for name in sorted(files)]
            listing = {'id': repo, 'modelId': repo, 'sha': fault.commit or commit}
            listing |= {'siblings': siblings + self.hub.listed, 'tags': [], 'downloads': 0}
            listing |= {'private': repo in self.hub.private, 'gated': repo in self.hub.gated}
            self.reply(200, listing)

    def sibling(self, name: str, content: bytes) -> dict:
        if 'blobs' not in self.query:
            return {'rfilename': name}
        entry = {'rfilename': name, 'size': len(content), 'blobId': git_hash(content)}
        if name.endswith(LFS):
            entry['lfs'] = {'sha256': sha256(content), 'size': len(content), 'pointerSize': 130}
        return entry

    def tree_entry(self, name: str, content: bytes) -> dict:
        entry = {'type': 'file', 'path': name, 'size': len(content), 'oid': git_hash(content)}
        if name.endswith(LFS):
            entry['lfs'] = {'oid': sha256(content), 'size': len(content), 'pointerSize': 130}
        return entry

    def resolve(self, repo: str, _: str, rest: list[str]) -> None:
        """A file, or with HEAD what is to be known of it."""
        if not (found := self.find(repo, rest[0] if rest else '')):
            return
        commit, files = found
        name = '/'.join(rest[1:])
        if repo in self.hub.gated and not self.allowed:
            self.refuse(403 if self.headers.get('Authorization') else 401, 'GatedRepo')
        elif name not in files:
            self.refuse(404, 'EntryNotFound')
        else:
            self.serve(name, files[name], commit, self.fault_of(repo, name))

    def fault_of(self, repo: str, name: str | None) -> Fault:
        fault = self.hub.faults.get((repo, name))
        if fault is None or fault.times <= 0 or self.command not in fault.methods:
            return Fault()
        if fault.after > 0:
            fault.after -= 1
            return Fault()
        if self.command == fault.methods[-1]:
            fault.times -= 1
        return fault

    def serve(self, name: str, content: bytes, commit: str, fault: Fault) -> None:
        if fault.status:
            self.send(fault.status, fault.body or b'', fault.headers)
            return
        etag = digest(name, content) if fault.etag is None else fault.etag
        body = content if fault.body is None else fault.body
        start = int(self.headers.get('Range', 'bytes=0-')[6:].partition('-')[0])
        headers = {'ETag': f'"{etag}"', 'X-Repo-Commit': fault.commit or commit, **fault.headers}
        if start:
            headers['Content-Range'] = f'bytes {start}-{len(body) - 1}/{len(body)}'
        self.send(206 if start else 200, body[start:], headers, fault)

    def find(self, repo: str, revision: str) -> tuple[str, Files] | None:
        """The commit and files of a revision; None once it is answered that there are none."""
        if repo in self.hub.renamed:
            location = self.path.replace(repo, self.hub.renamed[repo], 1)
            self.send(307, b'', {'Location': location})
        elif repo not in self.hub.repos or (repo in self.hub.private and not self.allowed):
            self.refuse(404 if self.allowed else 401, 'RepoNotFound')
        elif (commit := self.commit(repo, revision)) is None:
            self.refuse(404, 'RevisionNotFound')
        else:
            return commit, self.hub.repos[repo].commits[commit]
        return None

    def commit(self, repo: str, revision: str) -> str | None:
        entry = self.hub.repos[repo]
        commit = entry.branches.get(revision, revision)
        return commit if commit in entry.commits else None

    # Writing.

    def write(self) -> None:
        if self.parts[:2] == ['api', 'validate-yaml']:
            self.reply(200, {'errors': [], 'warnings': []})
        elif self.command == 'PUT':  # Without a token, as on the Hub: the address is secret.
            self.hub.objects[self.parts[-1]] = self.content
            self.send(self.hub.faults.get(('lfs', None), Fault()).status or 200, b'')
        elif not self.allowed:
            self.refuse(401)
        elif self.parts[:3] == ['api', 'repos', 'create']:
            self.create()
        elif self.parts[-2:] == ['objects', 'batch']:
            self.reply(200, {'transfer': 'basic', 'objects': self.places()})
        else:
            repo, kind, _ = self.split(self.parts[2:], ('preupload', 'commit'))
            self.reply(200, self.modes() if kind == 'preupload' else self.add_commit(repo))

    def create(self) -> None:
        asked = json.loads(self.content)
        repo = f'{asked.get("organization") or "user"}/{asked["name"]}'
        status = 409 if repo in self.hub.repos else 200
        if status == 200:
            self.hub.put(repo, {})
            if asked.get('private') or asked.get('visibility') == 'private':
                self.hub.private.add(repo)
        self.reply(status, {'url': f'{self.hub.url}/{repo}', 'name': repo, 'id': repo})

    def modes(self) -> dict:
        files = [
            {
                'path': file['path'],
                'uploadMode': 'lfs' if file['path'].endswith(LFS) else 'regular',
                'shouldIgnore': False,
            }
            for file in json.loads(self.content)['files']
        ]
        return {'files': files}

    def places(self) -> list[dict]:
        """Where objects are to be put."""
        return [
            {**wanted, 'actions': {'upload': {'href': f'{self.hub.url}/lfs/{wanted["oid"]}'}}}
            for wanted in json.loads(self.content)['objects']
        ]

    def add_commit(self, repo: str) -> dict:
        files = dict(self.hub.repos[repo].commits[self.hub.repos[repo].branches['main']])
        for line in map(json.loads, self.content.splitlines()):
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif line['key'] == 'lfsFile':
                files[value['path']] = self.hub.objects[value['oid']]
        commit = self.hub.put(repo, files)
        return {'commitUrl': f'{self.hub.url}/{repo}/commit/{commit}', 'commitOid': commit}

    # Requests and answers.

    def split(self, parts: list[str], words: tuple[str, ...]) -> tuple[str, str, list[str]]:
        """The repository before the first of the words, the word, and what comes after it."""
        for i, part in enumerate(parts):
            if part in words:
                return '/'.join(parts[:i]), part, parts[i + 1 :]
        return '/'.join(parts), '', []

    def _read_chunks(self) -> bytes:
        content = b''
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def refuse(self, status: int, code: str = '') -> None:
        self.send(status, b'', {'X-Error-Code': code} if code else {})

    def reply(self, status: int, answer: object) -> None:
        self.send(status, json.dumps(answer).encode(), {'Content-Type': 'application/json'})

    def send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        fault: Fault | None = None,
    ) -> None:
        if self.command == 'HEAD' and fault and fault.until:
            fault.until.wait(60)
        self.send_response(status)
        for name, value in {**(headers or {}), 'Content-Length': str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'HEAD':
            return
        half = len(body) // 2
        if fault and fault.cut is not None:
            self.wfile.write(body[: fault.cut])
            self.close_connection = True
        elif fault and fault.until:
            self.wfile.write(body[:half])
            self.wfile.flush()
            fault.until.wait(60)
            self.wfile.write(body[half:])
        else:
            self.wfile.write(body)
