"""The couplings as one self-contained web page to zoom in."""

from mlcrf.reports.matrixpage.page import save_matrix_page

__all__ = ["save_matrix_page"]
