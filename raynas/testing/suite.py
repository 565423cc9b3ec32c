"""What all suites share: how a test class says what it tests."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar


class Suite:
    """A class of tests of one part.

    A subclass whose name begins with `Test` says what is tested by `part`, or overrides the
    fixture of the suite, which may have parameters then. Other attributes of a suite are options
    that a subclass may set likewise.
    """

    part: ClassVar[Any] = None

    @classmethod
    def given(cls) -> Any:
        """Return the part.

        Raises:
            NotImplementedError: when there is none.
        """
        if cls.part is None:
            raise NotImplementedError(f"{cls.__name__}.part: say what is to be tested.")
        return cls.part

    @classmethod
    def factory(cls) -> Callable[[], Any]:
        """Return what makes the part anew: the part itself, or copies where it is an object."""
        part = cls.given()
        return part if callable(part) else lambda: copy.deepcopy(part)
