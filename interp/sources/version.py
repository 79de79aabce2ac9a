"""The version of headscope, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("headscope")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "unknown"
