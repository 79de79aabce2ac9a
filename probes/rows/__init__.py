"""The one reader of files: rows of any known shape, each with its number."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.rows.cells import (
        filled as filled,
        listed as listed,
        named as named,
        shortened as shortened,
        strings as strings,
        text as text,
    )
    from probes.rows.formats import (
        AS_IT_IS as AS_IT_IS,
        Cells as Cells,
        Format as Format,
        Items as Items,
        Misread as Misread,
        Reading as Reading,
        known as known,
        read_items as read_items,
        rename as rename,
        short_hash as short_hash,
    )
    from probes.rows.item_sets import (
        deal as deal,
        hash_items as hash_items,
        require_fractions as require_fractions,
        shipped_or as shipped_or,
    )
    from probes.rows.placeholders import (
        PLACE as PLACE,
        Templates as Templates,
        ours as ours,
        places as places,
    )
    from probes.rows.rows import (
        EXTENSIONS as EXTENSIONS,
        called as called,
        has_rows as has_rows,
        is_read_once as is_read_once,
        read_lines as read_lines,
        read_rows as read_rows,
        stem_of as stem_of,
        stream_rows as stream_rows,
        suffix_of as suffix_of,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
