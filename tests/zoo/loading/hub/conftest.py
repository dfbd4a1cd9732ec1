"""A small repository on a loopback server."""

import pytest
from hub_files import FILES, REPO
from hub_server import HubServer


@pytest.fixture
def server(monkeypatch, tmp_path):
    with HubServer({REPO: {'main': FILES}}) as server:
        server.connect(monkeypatch, tmp_path)
        yield server
