"""LWD: learning while deploying."""

from importlib.metadata import version

__version__ = version("lwd")
