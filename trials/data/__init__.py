"""The data of a search: from where they come, decoded, divided into parts, augmented."""

from trials.data.augmentation import Augmentation
from trials.data.loading import Data, absolute, load, names
from trials.data.parts import Part
from trials.data.sources import Source
from trials.errors import DataError

__all__ = ["Augmentation", "Data", "DataError", "Part", "Source", "absolute", "load", "names"]
