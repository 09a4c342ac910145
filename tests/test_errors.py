"""A user's error is one short line, whatever it repeats of what was given."""

import pickle

from grkd.errors import UserError, one_line


def test_long_values_are_cut_in_the_middle_and_lines_joined() -> None:
    error = UserError(f"a.jsonl, line 3: role {'x' * 5000}\n is unknown; use one of user, assistant")
    assert len(str(error)) < 400
    assert "\n" not in str(error)
    assert str(error).startswith("a.jsonl, line 3: role xxx")
    assert str(error).endswith("xxx is unknown; use one of user, assistant")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert one_line("short") == "short"
