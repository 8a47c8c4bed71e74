"""Whether to believe a registration: the verdict, the quality page of a run, the page of a cohort."""

from regista.reporting._page import Report, make_report, write_report
from regista.reporting._verdict import Outcome, Verdict, judge

__all__ = ["Outcome", "Report", "Verdict", "judge", "make_report", "write_report"]
