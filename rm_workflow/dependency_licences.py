"""Licences of what is installed because of this package: ``python -m rm_workflow.dependency_licences``.

Read from the metadata of the installed packages, so it needs no network, and holds for this environment: another
machine may have other versions, and a CUDA build of torch brings packages of NVIDIA's own licence. What a package does
not state is said to be not stated; this is a list to begin with and no legal advice.
"""

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

PACKAGE = "rm_workflow"
CLASSIFIER = "License :: "
NOT_STATED = "not stated"
# Some packages put the whole text where a name belongs.
LONGEST_NAME = 80


def installed_requirements(package: str = PACKAGE) -> Iterator[metadata.Distribution]:
    """Yield what a package needs and what that needs, each once, by name; extras and what is not installed left out."""
    seen = {_plain(package)}
    found: dict[str, metadata.Distribution] = {}
    waiting = [package]
    while waiting:
        for text in metadata.requires(waiting.pop()) or ():
            needed = Requirement(text)
            name = _plain(needed.name)
            if name in seen or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            seen.add(name)
            try:
                found[name] = metadata.distribution(needed.name)
            except metadata.PackageNotFoundError:
                continue
            waiting.append(needed.name)
    for name in sorted(found):
        yield found[name]


def licence_of(distribution: metadata.Distribution) -> str:
    """Return the licence as the package states it: expression, classifiers, then a short name of its own."""
    stated = distribution.metadata
    if "License-Expression" in stated:
        return stated["License-Expression"]
    classifiers = [entry for entry in stated.get_all("Classifier") or () if entry.startswith(CLASSIFIER)]
    names = [entry.rpartition(" :: ")[2] for entry in classifiers if entry != "License :: OSI Approved"]
    if names:
        return " and ".join(names)
    own = (stated.get_all("License") or [""])[0]
    first = next(iter(own.strip().splitlines()), "")
    return first if first and len(first) <= LONGEST_NAME else NOT_STATED


def as_markdown() -> str:
    """Return a table of all packages with version, licence and home page."""
    rows = (
        f"| {found.metadata['Name']} | {found.version} | {licence_of(found)} | {_home_page(found)} |\n"
        for found in installed_requirements()
    )
    return "| package | version | licence | home page |\n| --- | --- | --- | --- |\n" + "".join(rows)


def _home_page(distribution: metadata.Distribution) -> str:
    stated = distribution.metadata
    urls = [entry.partition(", ") for entry in stated.get_all("Project-URL") or ()]
    named = [url for label, _, url in urls if re.match(r"(home|source|repository|code)", label, re.IGNORECASE)]
    if "Home-page" in stated:
        return stated["Home-page"]
    return next(iter(named), "") or next((url for *_, url in urls), "")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
