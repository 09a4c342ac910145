"""Records that cannot be learnt from, counted by reason and named in one line per reason."""

from rich.markup import escape

from grkd.console import console

_NAMED = 3


class LeftOut:
    """Ids of what is left out, by reason."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.ids.values()))

    def add(self, name: str, reason: str) -> None:
        self.ids.setdefault(reason, []).append(name)

    @property
    def lines(self) -> list[str]:
        """Per reason: how many, the first ids, why."""
        found = []
        for reason, ids in self.ids.items():
            names = ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
            found.append(f"{len(ids)} record{'s' * (len(ids) != 1)} left out ({names[:80]}): {reason[:240]}")
        return found

    def say(self, where: str) -> None:
        """Print the lines, each behind `where`."""
        for line in self.lines:
            console.print(f"[yellow]{escape(f'{where}: {line}')}[/yellow]", soft_wrap=True)
