"""The report of a run: one HTML page that stands alone."""

from sltjax.report.page import write_report

__all__ = ["write_report"]
