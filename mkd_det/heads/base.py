"""The contract of a head reader, and the search for the reader of a head.

A kind of head is one file with one subclass of `HeadReader`, registered in `HEADS`:
here, or in a module of a user's that `custom_imports` names. The taps, the plan, the
losses and the recipes know head readers by this contract only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from ..errors import HeadKindError
from ..registry import HEADS
from ..structures import HeadOutput, Level, Levels
from ..taps import Tap

if TYPE_CHECKING:
    from .proofs.proof import ReadTwice

Activation = Literal['sigmoid', 'softmax']


class TappedHead(NamedTuple):
    """A head and what it yielded in one forward.

    Args:
        head: The head.
        levels: Its levels, as the tap yields them.
        reader: Who reads it, with its settings; None for a new reader of its kind.
        mapped: Whether a class map says which classes of both heads are the same, so
            that their numbers may differ.
    """

    head: Any
    levels: Levels
    reader: HeadReader | None = None
    mapped: bool = False


class HeadReader:
    """Reads the output of one kind of head into a `HeadOutput`.

    Reading must be exact: scores and boxes are those of the head's own prediction, in
    train and in eval mode. The plan asks `prove` for it. An instance belongs to one
    head and one term.

    Class attributes:
        name: One word for the kind, for messages and the `needs` of recipes.
        aligned: Whether row i of two comparable outputs is the same place or region.
            Outputs of other kinds are only for losses that match rows themselves
            (`PairLoss.matches_rows`).

    Attributes:
        activation: Whether the class logits are meant for a sigmoid or a softmax. The
            last class of a softmax is the background.
        decodes: Whether `read` decodes boxes. The plan switches it off where the loss
            of the term does not need them.
        strides: Input pixels per cell of each level that the tap yields, for heads
            with levels. The plan fills in what it found by probing.
        kept: Indices of the levels that are read; None for all. The plan fills it in
            where the other head has levels of other strides.

    Args:
        head: The head.

    Raises:
        HeadKindError: A head of this kind that cannot be read.
    """

    name: ClassVar[str] = ''
    aligned: ClassVar[bool] = True

    def __init__(self, head: Any) -> None:
        self.activation: Activation = 'sigmoid'
        self.decodes = True
        self.strides: tuple[int | None, ...] = ()
        self.kept: tuple[int, ...] | None = None

    # -- what the plan asks the kind ---------------------------------------------

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Return whether `module` is a head of this kind."""
        raise TypeError(f'{cls.__name__} must define matches()')

    @classmethod
    def layout(cls, value: Any) -> list[Level] | None:
        """Turn the output of one call of the head into levels.

        Args:
            value: What the head's `forward` returned.

        Returns:
            Levels, or None for the usual form; see `taps.to_levels`.
        """
        return None

    @classmethod
    def beside(cls, path: str) -> dict[str, str]:
        """Return further taps that `read` needs, by the name of its argument.

        Args:
            path: Module path of the head.
        """
        return {}

    @classmethod
    def check_tap(
        cls, model: nn.Module, tap: Tap, of_student: bool, where: str
    ) -> None:
        """Raise where a tap must not be read, for reasons that this kind knows.

        The plan calls it for every tap of every model, whatever the tap names.

        Args:
            model: The model.
            tap: The tap.
            of_student: Whether the model is the student.
            where: Name of the tap, for messages.
        """

    @classmethod
    def when_silent(cls, tap: Tap) -> Callable[[nn.Module], Level] | None:
        """Return what makes a level where a module is not called in a training step.

        The plan calls it for every tap of the student that has fired in its own run.
        Modules may sit out a step for want of objects; what is read then is empty.

        Args:
            tap: The tap.

        Returns:
            Makes the level, of the student; None where silence is an error.
        """
        return None

    @classmethod
    def layout_at(
        cls, model: nn.Module, tap: Tap, of_student: bool
    ) -> Callable[[Any], list[Level] | None] | None:
        """Return what turns one call at a tap into levels, for reasons of this kind.

        The plan calls it for every tap of every model that is not the output of a head.

        Args:
            model: The model.
            tap: The tap.
            of_student: Whether the model is the student.

        Returns:
            As `Tap.layout`; None for the usual form.
        """
        return None

    @classmethod
    def check_term(cls, taps: Iterable[Tap], where: str) -> None:
        """Raise where the taps of the student that one term reads do not go together.

        The plan calls it for every term.

        Args:
            taps: The taps, also those that adapters of the term read.
            where: Name of the term, for messages.
        """

    # -- running a model -----------------------------------------------------------

    @classmethod
    def run(cls, model: Any, head: Any, features: Any, samples: Sequence[Any]) -> None:
        """Run a head of this kind on the features of its detector.

        Through `__call__`, so that hooks fire. No loss, no assignment, no NMS.

        Args:
            model: The detector.
            head: Its head.
            features: What `model.extract_feat` returned.
            samples: A data sample for each image, with the metas of the image.
        """
        head(features)

    @classmethod
    def rehearse(cls, model: Any, features: Any, inputs: Tensor) -> None:
        """Run what a training runs, and `run` does not, so that taps there fire.

        The plan calls it for the student, whatever the heads of the student are.

        Args:
            model: The detector.
            features: What `model.extract_feat` returned.
            inputs: The images (N, C, H, W).
        """

    # -- reading -------------------------------------------------------------------

    @property
    def traits(self) -> frozenset[str]:
        """Words for what the head is, for the `needs` of recipes."""
        return frozenset({self.name, self.activation})

    def read(self, head: Any, levels: Sequence[Level], **beside: Levels) -> HeadOutput:
        """Read one forward.

        Args:
            head: The head as it is now. Modules may have been replaced since the plan
                was made, by SyncBN conversion for example.
            levels: Its levels, as `layout` or `to_levels` made them.
            **beside: Levels of the taps that `beside` names.

        Returns:
            HeadOutput: In float32.
        """
        raise TypeError(f'{type(self).__name__} must define read()')

    def prove(
        self, model: Any, head: Any, features: Sequence[Tensor], where: str
    ) -> ReadTwice | None:
        """Raise unless `read` reads the head exactly.

        The plan calls it once for each head that a term reads. A kind compares what
        it reads, in train and in eval mode, with the head's own predictions on the
        same features; `proofs` has what such proofs share. Here nothing is checked.

        Args:
            model: The detector. It is left as it is.
            head: The head. It is left as it is.
            features: Maps like those that the head gets, from the plan's run.
            where: Name of the head, for messages.

        Returns:
            What the head is read as by both sides of a term. The plan checks that the
            loss of the two is 0. None where nothing was run.

        Raises:
            HeadKindError: It does not.
        """
        return None

    def level_strides(self, head: Any) -> tuple[int | None, ...]:
        """Return input pixels per cell of each level that the tap yields.

        Args:
            head: The head.

        Returns:
            As the head says; `strides` where it does not say.
        """
        return self.strides

    def check_comparable(
        self, student: TappedHead, teacher: TappedHead, where: str
    ) -> None:
        """Raise unless the outputs of two heads of this kind can be compared.

        Args:
            student: The student's head.
            teacher: The teacher's head.
            where: Name of the term, for messages.

        Raises:
            HeadKindError: They predict at other places, for example.
            TeacherClassesError: They have another number of classes.
        """


def reader_classes() -> list[type[HeadReader]]:
    """Return all kinds of heads; those of users come before those of this package."""
    HEADS.import_from_location()
    return list(reversed(HEADS.module_dict.values()))


def find_reader(module: nn.Module | None) -> type[HeadReader] | None:
    """Return the kind of a head; None for modules that are no head of a known kind."""
    if module is None:
        return None
    return next((cls for cls in reader_classes() if cls.matches(module)), None)


def traits_of(module: nn.Module | None) -> frozenset[str]:
    """Return the traits of a head; none for other modules and unreadable heads.

    Args:
        module: A head, a list of heads, or any other module.
    """
    heads = list(module) if isinstance(module, nn.ModuleList) else [module]
    traits = []
    for head in heads:
        kind = find_reader(head)
        try:
            traits.append(kind(head).traits if kind else frozenset[str]())
        except HeadKindError:
            return frozenset()
    return frozenset.intersection(*traits) if traits else frozenset()
