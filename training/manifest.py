"""What a checkpoint's folder must hold: each file's size and checksum, so that a cut or a flipped bit is found."""

import hashlib
from pathlib import Path

from common.errors import UserError
from common.files import json_text, read_json, write_json

MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> None:
    """Describes the files that are in `directory` now. Raises UserError where it cannot be written."""
    write_json(directory / MANIFEST, {path.name: _describe(path) for path in sorted(directory.iterdir())})


def check_manifest(directory: Path) -> None:
    """Raises UserError where a file is missing, has another size or another content than when it was written."""
    path = directory / MANIFEST
    described = read_json(path)
    try:
        is_ours = path.read_text(encoding="utf-8") == json_text(described)
    except ValueError:  # half a character, which JSON can spell
        is_ours = False
    if not is_ours or not described:
        raise UserError(f"{path} is not as it was written")
    for name, expected in described.items():
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise UserError(f"{file} is missing")
        if (found := _describe(file)) != expected:
            wanted = expected if isinstance(expected, dict) else {}
            same_size = found["bytes"] == wanted.get("bytes")
            reason = "another checksum" if same_size else f"{found['bytes']} bytes, not {wanted.get('bytes')}"
            raise UserError(f"{file} is not as it was written ({reason})")


def _describe(path: Path) -> dict[str, int | str]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": digest}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
