"""What the contract cannot derive of methods that are for responses; the tables are those of _row_cases."""

from typing import Any

OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {}
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {}
NO_IDENTITY: dict[tuple[str, str], str] = {}
DETERMINISTIC: dict[str, dict[str, Any]] = {}
