"""What this package needs and what is installed of it, by the version ranges in its own metadata: the same from a wheel
as from a checkout."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PACKAGE = "headscope"


@dataclass(frozen=True)
class Package:
    """A requirement and what is installed of it (None: nothing). extra: what it is needed for, "" for everything."""

    name: str
    needs: str
    installed: str | None
    extra: str

    @property
    def ok(self) -> bool:
        return self.installed is not None and SpecifierSet(self.needs).contains(self.installed, prereleases=True)


@dataclass(frozen=True)
class Problem:
    """Something required that is missing, and what to do about it."""

    what: str
    remedy: str


def installed_packages() -> tuple[tuple[Package, ...], list[Problem]]:
    """The requirements in the metadata with what is installed; problems only of those that are always needed."""
    try:
        needed = metadata.requires(PACKAGE) or []
        python = metadata.metadata(PACKAGE)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        remedy = f"Install it, from its folder: {pip_install('-e .')}."
        return (), [Problem(f"{PACKAGE} is not installed as a package, so nothing says what it needs", remedy)]
    problems = []
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        what = f"Python {platform.python_version()} runs, {PACKAGE} needs {python}"
        problems.append(Problem(what, "Make a virtual environment with a newer Python."))
    extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    packages = []
    for requirement in map(Requirement, needed):
        fitting = [extra for extra in ("", *extras) if _applies(requirement, extra)]
        if fitting:  # of a marker that holds without any extra, "" is the first
            packages.append(
                Package(requirement.name, str(requirement.specifier), installed_version(requirement.name), fitting[0])
            )
    for package in packages:
        if not package.ok and not package.extra:
            found = "is not installed" if package.installed is None else f"is {package.installed}"
            wanted = f"'{package.name}{package.needs}'"
            remedy = f"Install it: {pip_install(wanted)}."
            problems.append(Problem(f"{package.name} {found}; {PACKAGE} needs {package.needs or 'it'}", remedy))
    return tuple(packages), problems


def installed_version(package: str) -> str | None:
    """The version of a package, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def pip_install(arguments: str) -> str:
    """The command that installs this."""
    return f"python -m pip install {arguments}"


def install_extra(extra: str) -> str:
    """The command that installs what an extra needs: by the packages' names, since headscope is on no index."""
    packages, _ = installed_packages()
    missing = [f"'{p.name}{p.needs}'" for p in packages if p.extra == extra and not p.ok]
    return pip_install(" ".join(missing)) if missing else f"{pip_install('-e')} '.[{extra}]', in a checkout"


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
