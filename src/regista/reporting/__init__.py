"""Whether to believe a registration: the verdict, the quality page of a run, the page of a cohort, the viewer."""

from regista.reporting._cohort import CohortRow, find_runs, write_cohort
from regista.reporting._folder import RunFolder, read_run
from regista.reporting._notebook import NotebookViewer, view
from regista.reporting._page import Report, make_report, write_report
from regista.reporting._verdict import MEASURES, Outcome, Verdict, judge
from regista.reporting._viewer import open_viewer
from regista.reporting._viewer_run import ViewerRun
from regista.reporting._viewer_server import ViewerServer

__all__ = [
    "MEASURES",
    "CohortRow",
    "NotebookViewer",
    "Outcome",
    "Report",
    "RunFolder",
    "Verdict",
    "ViewerRun",
    "ViewerServer",
    "find_runs",
    "judge",
    "make_report",
    "open_viewer",
    "read_run",
    "view",
    "write_cohort",
    "write_report",
]
