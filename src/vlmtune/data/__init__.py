"""Sources of rows. A source is a module with `Config` and `open(config, split, limit) -> Rows`.

`Config` extends `DatasetConfig`, which maps columns to roles, so a new dataset needs nothing but a block of YAML.
`split` is the source's own name of a split, and `limit` the number of its first rows that are used. `ImageRef.where` is
unique among all images of a dataset, across its splits.
"""

from vlmtune.data._annotations import BOXES as ANNOTATION_BOXES
from vlmtune.data._contract import ROLES, DatasetConfig, Limits, Rows, Shares, SplitRole, Splits
from vlmtune.data._download import errors_named
from vlmtune.data._image_refs import ENDINGS as IMAGE_ENDINGS
from vlmtune.data._image_refs import REMOTE, is_base64
from vlmtune.data._records import Record, Records
from vlmtune.data._splits import Subset, have_common_rows, open_role, overlapping_roles
from vlmtune.data._tables import ENDINGS as TABLE_ENDINGS
from vlmtune.data._tables import SEPARATORS
from vlmtune.data._values import python_list, structured

__all__ = [
    "ANNOTATION_BOXES",
    "IMAGE_ENDINGS",
    "REMOTE",
    "ROLES",
    "SEPARATORS",
    "TABLE_ENDINGS",
    "DatasetConfig",
    "Limits",
    "Record",
    "Records",
    "Rows",
    "Shares",
    "SplitRole",
    "Splits",
    "Subset",
    "errors_named",
    "have_common_rows",
    "is_base64",
    "open_role",
    "overlapping_roles",
    "python_list",
    "structured",
]
