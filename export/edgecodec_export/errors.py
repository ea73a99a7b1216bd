"""The error of this package, in the runtime's tree, so that the command line prints it as one line."""

from __future__ import annotations

from edgecodec.errors import EdgecodecError


class ExportError(EdgecodecError):
    """A checkpoint that cannot be exported, graphs that differ from their model, or audio that cannot be scored."""
