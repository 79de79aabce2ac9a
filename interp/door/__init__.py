"""The public door: arguments are checked, and wrong ones are named with what makes the right one."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.door.callers import outside_package as outside_package
    from interp.door.door import (
        as_integer as as_integer,
        as_integers as as_integers,
        as_real as as_real,
        made_by as made_by,
        public as public,
    )
    from interp.door.plain_values import (
        as_items as as_items,
        as_numbers as as_numbers,
        as_tensor as as_tensor,
        described as described,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
