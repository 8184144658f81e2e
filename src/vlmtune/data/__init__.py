"""Where rows come from. A source is a file here with `Config` and `open(config, split) -> Rows`.

`Config` extends `DatasetConfig`: the columns of the source are mapped to roles in YAML, so a new dataset is one block
of configuration. `split` is the source's own name of a split; `limit` cuts it in dataset order. No two images of a
dataset have the same `ImageRef.where`, whatever their splits.
"""

from vlmtune.data._contract import ROLES, DatasetConfig, Limits, Rows, Shares, SplitRole, Splits
from vlmtune.data._download import errors_named
from vlmtune.data._image_refs import ENDINGS as IMAGE_ENDINGS
from vlmtune.data._image_refs import REMOTE, is_base64
from vlmtune.data._rows import Record, Records
from vlmtune.data._splits import SomeRows, open_role, shared_roles
from vlmtune.data._tables import ENDINGS as TABLE_ENDINGS
from vlmtune.data._tables import SEPARATORS
from vlmtune.data._values import structured

__all__ = [
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
    "SomeRows",
    "SplitRole",
    "Splits",
    "errors_named",
    "is_base64",
    "open_role",
    "shared_roles",
    "structured",
]
