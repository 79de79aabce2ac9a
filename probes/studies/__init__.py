"""What every study is made of: what it is, where it is kept, what was left out."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.studies.left_out import first_names as first_names, said_of_data as said_of_data
    from probes.studies.runs import mass_read as mass_read
    from probes.studies.study import Study as Study
    from probes.studies.study_files import pack_texts as pack_texts, unpack_texts as unpack_texts

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
