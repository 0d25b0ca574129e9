"""How good a run is, as one self-contained web page."""

from mlcrf.reports.webpage.gallery import Gallery
from mlcrf.reports.webpage.page import save_page

__all__ = ["Gallery", "save_page"]
