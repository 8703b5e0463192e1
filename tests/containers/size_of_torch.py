"""Print how many MB torch takes as installed, with the packages that it asks for: its CUDA's, if it has any.

Runs inside the image, so it imports nothing of the project.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

left: list[tuple[str, str]] = [("torch", "")]
seen: set[tuple[str, str]] = set()
sizes: dict[str, int] = {}
while left:
    name, extra = one = left.pop()
    if one in seen:
        continue
    seen.add(one)
    try:
        found = distribution(name)
    except PackageNotFoundError:  # what it asks for on other machines
        continue
    for line in found.requires or []:
        needed = re.search(r"""extra == ["']([\w.-]+)""", line)
        if (needed[1] if needed else "") != extra:
            continue
        child, extras = re.findall(r"^([\w.-]+)\s*(?:\[(.*?)\])?", line)[0]
        left += [(child.lower(), word.strip()) for word in ("", *extras.split(","))]
    paths = (found.locate_file(file) for file in found.files or [])
    sizes[name] = sum(path.lstat().st_size for path in paths if path.exists())
print(sum(sizes.values()) / 1e6)  # noqa: T201 - whoever runs this reads it
