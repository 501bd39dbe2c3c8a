"""A hook of mkdocs: links to files that are not below `docs/` lead to the repository."""  # noqa: INP001

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of a page that leave `docs/`.

    Raises:
        PluginError: there is no such file.
    """
    folder = Path(page.file.abs_src_path).parent

    def outside(link: re.Match[str]) -> str:
        target, anchor = (folder / link[1]).resolve(), link[2] or ""
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            msg = f"{page.file.src_path} links to {link[1]}, which does not exist"
            raise PluginError(msg)
        return f"]({config.repo_url}/blob/main/{target.relative_to(ROOT)}{anchor})"

    return re.sub(r"\]\(((?:\.\./)+[^)#\s]*)(#[^)]*)?\)", outside, markdown)
