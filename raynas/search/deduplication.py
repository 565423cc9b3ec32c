"""Architectures that compute the same function are paid for once."""

from collections.abc import Iterator

from search_spaces import Architecture, SearchSpace


class Deduplication:
    """Knows which evaluation stands for an architecture.

    Args:
        space: whose canonical forms tell what computes the same function.
        unique: whether equal architectures are evaluated once only; else every one is paid for,
            and the last that has ended stands for them all.
    """

    def __init__(self, space: SearchSpace, unique: bool = True):
        self.space, self.unique = space, unique
        #: how often what was asked for had been asked for before
        self.duplicates = 0
        self._by_form: dict[Architecture, int] = {}
        self._forms: dict[Architecture, Architecture] = {}
        #: {evaluation: architectures to tell its result for, too}
        self._followers: dict[int, list[Architecture]] = {}

    def evaluation(self, arch: Architecture) -> int | None:
        """Return the evaluation that stands for an architecture, if any."""
        form = self._forms.get(arch)
        if form is None:
            form = self._forms[arch] = self.space.canonical(arch)
        return self._by_form.get(form)

    def duplicated(self, arch: Architecture) -> int | None:
        """Return the evaluation that an architecture need not be paid for again, if any."""
        index = self._by_form.get(self.space.canonical(arch)) if self.unique else None
        self.duplicates += index is not None
        return index

    def add(self, arch: Architecture, index: int) -> None:
        """Note that an evaluation begins; a repetition counts when it has ended."""
        self._by_form.setdefault(self.space.canonical(arch), index)

    def follow(self, index: int, arch: Architecture) -> None:
        """Note that the result of an evaluation is to be told for this architecture, too."""
        self._followers.setdefault(index, []).append(arch)

    def end(self, arch: Architecture, index: int) -> list[Architecture]:
        """Note that an evaluation has ended; return the architectures to tell its result for."""
        if not self.unique:
            self._by_form[self.space.canonical(arch)] = index
        return [arch, *self._followers.pop(index, [])]

    def unseen(self) -> Iterator[Architecture]:
        """Go through the architectures of the space that no evaluation stands for."""
        return (arch for arch in self.space if self.space.canonical(arch) not in self._by_form)
