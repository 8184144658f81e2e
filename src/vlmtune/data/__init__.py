"""Sources of rows. A source is a module with `Config` and `open(config, split, limit) -> Rows`.

`Config` extends `DatasetConfig`, which maps columns to roles, so a new dataset needs nothing but a block of YAML.
`split` is the source's own name of a split, and `limit` the number of its first rows that are used. `ImageRef.where` is
unique among all images of a dataset, across its splits.
"""

from vlmtune.data._annotations import BOXES as ANNOTATION_BOXES
from vlmtune.data._annotations import FOLDERS as FOLDER_FORMATS
from vlmtune.data._annotations import Folder, label_files, text_files
from vlmtune.data._choices import LETTERS
from vlmtune.data._contract import ROLES, DatasetConfig, Limits, Rows, Shares, SplitRole, Splits
from vlmtune.data._csv import SEPARATORS, separator_hint
from vlmtune.data._download import errors_named
from vlmtune.data._image_paths import image_file
from vlmtune.data._image_refs import DESCRIPTIONS, PAGED, PATH_KEYS, REMOTE, is_base64
from vlmtune.data._image_refs import ENDINGS as IMAGE_ENDINGS
from vlmtune.data._json import ENDINGS as JSON_ENDINGS
from vlmtune.data._overlap import have_common_rows, overlapping_roles
from vlmtune.data._records import Record, Records, names_text
from vlmtune.data._splits import SMALL as SMALL_SPLIT
from vlmtune.data._splits import Subset, open_role
from vlmtune.data._tables import ENDINGS as TABLE_ENDINGS
from vlmtune.data._text import ending, head
from vlmtune.data._turns import unread_beside
from vlmtune.data._values import python_list, structured

__all__ = [
    "ANNOTATION_BOXES",
    "DESCRIPTIONS",
    "FOLDER_FORMATS",
    "IMAGE_ENDINGS",
    "JSON_ENDINGS",
    "LETTERS",
    "PAGED",
    "PATH_KEYS",
    "REMOTE",
    "ROLES",
    "SEPARATORS",
    "SMALL_SPLIT",
    "TABLE_ENDINGS",
    "DatasetConfig",
    "Folder",
    "Limits",
    "Record",
    "Records",
    "Rows",
    "Shares",
    "SplitRole",
    "Splits",
    "Subset",
    "ending",
    "errors_named",
    "have_common_rows",
    "head",
    "image_file",
    "is_base64",
    "label_files",
    "names_text",
    "open_role",
    "overlapping_roles",
    "python_list",
    "separator_hint",
    "structured",
    "text_files",
    "unread_beside",
]
