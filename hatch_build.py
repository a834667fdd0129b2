"""Add metadata that is known only at build time: the repository's address, and with it the links of the README.

A GitHub workflow sets ``GITHUB_SERVER_URL`` and ``GITHUB_REPOSITORY``. Elsewhere a build has neither, so it has no
project URLs, and the README keeps its relative links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?![a-z]+:|#)(?P<path>[^)]+)\)")


class RepositoryLinks(MetadataHookInterface):
    """Set ``project.urls`` and ``project.readme``."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the address of the repository, if it is known, to a distribution's metadata."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
        if server and repository:
            home = f"{server}/{repository}"
            tag = f"v{metadata['version']}"
            metadata["urls"] = {
                "Homepage": home,
                "Documentation": f"{home}/tree/{tag}/docs",
                "Changelog": f"{home}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{home}/issues",
            }
            readme = absolute_links(readme, home, tag)
        else:
            metadata["urls"] = {}
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def absolute_links(text: str, home: str, tag: str) -> str:
    """Return Markdown whose relative links and images name the files of a tag in the repository at ``home``."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({home}/{kind}/{tag}/{link['path']})"

    return _RELATIVE_LINK.sub(absolute, text)
