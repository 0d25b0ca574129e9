"""The report on a run, as one self-contained HTML page."""

from mlcrf.reports.webpage.gallery import Gallery
from mlcrf.reports.webpage.report_page import save_report

__all__ = ["Gallery", "save_report"]
