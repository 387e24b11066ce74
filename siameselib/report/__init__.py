"""A run on one page: figures, pictures and what they mean, in a single HTML file.

verdict    the figures of a run in sentences: numbers in, words out
page       the file itself; pictures lie inside it, and nothing is fetched from anywhere
"""

from siameselib.report.page import report_page, write_report
from siameselib.report.verdict import verdict

__all__ = ["report_page", "verdict", "write_report"]
