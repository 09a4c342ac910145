"""Result files in, tables and one self-contained HTML page out."""

from grkd.reports.page import write_page
from grkd.reports.results import Run, read_run
from grkd.reports.tables import markdown_table, print_tables

__all__ = ["Run", "markdown_table", "print_tables", "read_run", "write_page"]
