"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """A certificate authority with a folder of its own."""

    def __init__(self, folder: Path, *, name: str = "ca") -> None:
        if not shutil.which("openssl"):
            pytest.skip("openssl is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self.file = self._make(name)

    def sign(self, name: str, *alternatives: str) -> tuple[Path, Path]:
        """Return a certificate and its key; the alternatives are like `DNS:localhost`."""
        signer = ("-CA", f"{self._name}.pem", "-CAkey", f"{self._name}.key")
        extensions = ["-addext", "basicConstraints=CA:FALSE"]
        if alternatives:
            extensions += ["-addext", f"subjectAltName={','.join(alternatives)}"]
        file = self._make(name, *signer, *extensions)
        return file, file.with_suffix(".key")

    def _make(self, name: str, *more: str) -> Path:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem",
             "-subj", f"/CN={name}", *more],
            cwd=self._folder, check=True, capture_output=True,
        )  # fmt: skip
        return self._folder / f"{name}.pem"
