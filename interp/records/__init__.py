"""What is written down: folders with one lock, files moved into place, part files with identity, sealed records."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.records.artefact import load_artefact as load_artefact, save_artefact as save_artefact
    from interp.records.csv_files import is_of_report as is_of_report, unguarded as unguarded, write_csv as write_csv
    from interp.records.folder_lock import NAME as NAME, holding as holding, keeps_work as keeps_work
    from interp.records.keep import Keep as Keep, Kept as Kept, keep_of as keep_of
    from interp.records.merging import merge_shards as merge_shards, merged_from as merged_from
    from interp.records.progress import in_time as in_time, showing_progress as showing_progress
    from interp.records.provenance import (
        hash_json as hash_json,
        hash_text as hash_text,
        hash_weights as hash_weights,
        now as now,
        offloaded_weights as offloaded_weights,
        versions as versions,
    )
    from interp.records.records import (
        RecordError as RecordError,
        read_record as read_record,
        record_text as record_text,
        understood as understood,
        write_record as write_record,
    )
    from interp.records.shards import ShardWaits as ShardWaits, place_of as place_of
    from interp.records.work import (
        clear_parts as clear_parts,
        count_left as count_left,
        keep_parts_of as keep_parts_of,
        prepare_directory as prepare_directory,
        require_parts_of as require_parts_of,
        run_batches as run_batches,
    )
    from interp.records.workers import this_worker as this_worker
    from interp.records.writing import (
        directory_beside as directory_beside,
        explained as explained,
        sync as sync,
        write_atomically as write_atomically,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
