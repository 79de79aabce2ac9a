"""Where a model comes from: names, folders, GGUF files, the built-in testbeds."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.sources.conversions import read_provenance as read_provenance
    from interp.sources.installation import (
        PACKAGE as PACKAGE,
        Package as Package,
        Problem as Problem,
        install_extra as install_extra,
        installed_packages as installed_packages,
        installed_version as installed_version,
        pip_install as pip_install,
    )
    from interp.sources.resolve import (
        BUILTIN as BUILTIN,
        DEFAULT as DEFAULT,
        cache_dir as cache_dir,
        describe_sources as describe_sources,
    )
    from interp.sources.testbeds import TESTBEDS as TESTBEDS

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
