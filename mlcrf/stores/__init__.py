"""Files in object stores, by their URL: listed, read whole, written whole."""

from mlcrf.stores.addresses import is_url, parse_place, parse_target
from mlcrf.stores.stored import Stored
from mlcrf.stores.writing import replacing, write_text

__all__ = ["Stored", "is_url", "parse_place", "parse_target", "replacing", "write_text"]
