"""Files in object stores, addressed by URL: list, read and write them."""

from mlcrf.stores.stored import Stored, is_url, parse_place, parse_target
from mlcrf.stores.writing import replacing, write_text

__all__ = ["Stored", "is_url", "parse_place", "parse_target", "replacing", "write_text"]
