"""The version, in one place: the package metadata and the User-Agent of requests are made from it."""

__version__ = "0.1.0"
