"""A twin or an ensemble on the Hub: pushed as it is saved."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from textsiam.inference.encoders import ModelError
from textsiam.inference.opening import hub_errors

# What a model consists of there; a file of these that it has no longer is deleted, and others are left alone.
_OWN = ("textsiam.*", "ensemble.*", "left/*", "right/*", "reranker/*", "base/*", "member-*/*", "graph/*")


def push(
    scorer: Any, repo: str, *, private: bool | None = None, revision: str | None = None, token: str | None = None
) -> str:
    """Save a twin or an ensemble, and upload it as one commit; see `Scorer.push_to_hub`.

    Raises:
        ModelError: It cannot be uploaded; the message says why.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as around:
        folder = Path(around) / "model"
        scorer.save_pretrained(folder, name=repo)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            how = {"revision": revision, "delete_patterns": list(_OWN), "commit_message": "Push a model of textsiam"}
            return str(api.upload_folder(repo_id=repo, folder_path=folder, **how).commit_url)
        except hub_errors() as error:
            known = token or os.environ.get("HF_TOKEN")
            hint = "" if known else "; the token is read from HF_TOKEN"
            raise ModelError(f"cannot push to {repo!r}: {' '.join(str(error).split())}{hint}") from error
