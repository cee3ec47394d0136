"""See a bus at work: a live map in the browser, a trace for Perfetto, and both as data.

Install the extra `devtools`. Nothing of the bus imports this.
"""

from ._observer import Observer
from ._server import serve_map
from ._trace import record_trace

__all__ = ["Observer", "record_trace", "serve_map"]
