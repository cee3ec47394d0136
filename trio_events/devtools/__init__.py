"""See a bus at work: as a live map in the browser, as a trace for Perfetto, or as data.

Install the extra `devtools`. The bus itself never imports this package.
"""

from .._extras import extra
from .._public import show_under

with extra("devtools", __name__):
    from ._observer import Observer
    from ._server import serve_map
    from ._trace import record_trace

__all__ = ["Observer", "record_trace", "serve_map"]

show_under(__name__, [Observer, record_trace, serve_map])
