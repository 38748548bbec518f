"""Reads run folders and says what happened in them: one HTML page, or a table for the terminal."""

from entprog.report.collect import Run, collect
from entprog.report.page import write_report
from entprog.report.schedule import schedule_picture
from entprog.report.summary import summary_markdown, summary_table

__all__ = ["Run", "collect", "schedule_picture", "summary_markdown", "summary_table", "write_report"]
