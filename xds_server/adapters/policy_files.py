"""Policy files judged with what only this machine can say: which time zones there are.

Everything that takes policies in (`runtime.documents`, the command line) does it here, so that `validate` and the server agree.
Neighbours: `policies.spec.loader` judges, `calendar` reads the time-zone database.
"""

from policies.spec import loader
from policies.spec.loader import Loaded, Reread, Texts
from xds_server.adapters.calendar import zone_exists


def load(texts: Texts, before: Loaded | None = None, reread: Reread | None = None) -> Loaded:
    """As `loader.load`; a freeze window in a time zone that does not exist is an error."""
    return loader.load(texts, before, zones=zone_exists, reread=reread)
