"""A report: sentences, tables and figures in one folder and on one page."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.reports.figures import Figures as Figures
    from interp.reports.findings import Card as Card, Findings as Findings, load_findings as load_findings
    from interp.reports.folder import (
        hash_file as hash_file,
        is_whole as is_whole,
        read_report_record as read_report_record,
        read_tensors as read_tensors,
        refuse_other_run as refuse_other_run,
        save_report as save_report,
        saved_run as saved_run,
        write_report_record as write_report_record,
    )
    from interp.reports.markdown import narrow as narrow
    from interp.reports.mass import LEAST as LEAST, AnswerMass as AnswerMass, mass_of as mass_of, with_mass as with_mass
    from interp.reports.page import (
        model_name as model_name,
        number as number,
        render_page as render_page,
    )
    from interp.reports.result import Result as Result, load_result as load_result
    from interp.reports.saved import later as later
    from interp.reports.tracking import log_result as log_result

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
