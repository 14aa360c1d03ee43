# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack an example application into one archive a version, byte for byte the same each time, with a list of checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

# Version to the folder that its sources are in. The drill's release 3 is the good one under a number of its own.
VERSIONS = {
    "mailer": {"1.0.0": "1.0.0", "2.0.0": "2.0.0-bad", "3.0.0": "2.0.0-good"},
    "parcel": {"1.0.0": "parcel", "2.0.0": "parcel", "3.0.0": "parcel"},
    "letters": {"1.0.0": "letters", "2.0.0": "letters"},
    "labels": {"1.0.0": "labels", "2.0.0": "labels"},
}


def pack(folder: Path, version: str) -> bytes:
    """Return a .tar.gz of the sources in ``folder``, with ``version`` as the version they say they are."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w") as archive:
        for source in sorted(folder.glob("*.py")):
            content = source.read_text(encoding="utf-8").replace('VERSION = "2.0.0"', f'VERSION = "{version}"').encode()
            entry = tarfile.TarInfo(source.name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def main(sources: str, target: str, application: str = "mailer") -> int:
    """Write the archives and ``checksums.json`` into ``target``."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for version, name in VERSIONS[application].items():
        content = pack(Path(sources) / name, version)
        (folder / f"{application}-{version}.tar.gz").write_bytes(content)
        checksums[version] = "sha256:" + hashlib.sha256(content).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=2), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
