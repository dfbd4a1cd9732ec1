"""Upload folders as commits to a repository."""

import os
from pathlib import Path

from blox.zoo.loading.hub.client import ask, client
from blox.zoo.loading.hub.names import check_names


def upload(
    repo: str, folder: str | os.PathLike[str], *, private: bool = False, message: str = 'Add model'
) -> str:
    """Put a folder's files into a repository, made if need be; return the commit's URL.

    With `private`, a repository that is there already and public is refused.
    """
    check_names(repo, 'main')
    api = client()

    def send() -> str:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(f'{repo!r} is public: make it private first, or pass private=False')
        done = api.upload_folder(repo_id=repo, folder_path=Path(folder), commit_message=message)
        return str(done.commit_url)

    return ask(f'upload to {repo!r}', repo, send)
