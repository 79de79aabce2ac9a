"""Pairs of pictures that differ in one meaning: kept, looked through, made from photographs."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.pairs.files import (
        UsedPairs as UsedPairs,
        load_picture_pairs as load_picture_pairs,
        used_pairs as used_pairs,
    )
    from probes.pairs.inpainting import (
        Inpainter as Inpainter,
        InpaintSettings as InpaintSettings,
        load_inpainting as load_inpainting,
    )
    from probes.pairs.masks import (
        Box as Box,
        Region as Region,
        box_region as box_region,
        detected_region as detected_region,
        file_region as file_region,
        load_detector as load_detector,
        load_segmenter as load_segmenter,
    )
    from probes.pairs.photo_edits import (
        PhotoEdit as PhotoEdit,
        recolour as recolour,
        remove as remove,
        swap_texture as swap_texture,
    )
    from probes.pairs.photo_pairs import (
        PAIRS as PAIRS,
        Editor as Editor,
        PhotoPair as PhotoPair,
        edit_photo as edit_photo,
        load_pairs as load_pairs,
        recolour_to as recolour_to,
        save_pairs as save_pairs,
        take_away as take_away,
    )
    from probes.pairs.scene_files import RECORDS as RECORDS, load_scenes as load_scenes, save_scenes as save_scenes
    from probes.pairs.sheet import (
        Decision as Decision,
        PicturePair as PicturePair,
        accepted as accepted,
        leaks as leaks,
        load_decisions as load_decisions,
        picture_pair as picture_pair,
        sheet_image as sheet_image,
        without_leaks as without_leaks,
        write_sheet as write_sheet,
    )
    from probes.pairs.substitutions import Substitution as Substitution, substitution_for as substitution_for

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
