"""Ranges of params: the part of a search space that a study searches.

A range is (low, high) of a number, or the choices of a categorical param.
"""

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Range: TypeAlias = tuple[Any, ...]
Ranges: TypeAlias = Mapping[str, Range]
Distributions: TypeAlias = Mapping[str, BaseDistribution]

TOML_COMMENT = """\
# A search space. A pair of numbers bounds a param and a list names choices; one value fixes the param.
"""


def narrow(distributions: Distributions, ranges: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """The distributions, those with a range narrowed to it.

    A range may also be one value, which fixes the param.

    Raises:
        ValueError: no such param, or a range that is not within its distribution.
    """
    if unknown := [name for name in ranges if name not in distributions]:
        raise _unknown(unknown[0], distributions)
    return {
        name: _narrowed(name, distribution, ranges[name]) if name in ranges else distribution
        for name, distribution in distributions.items()
    }


def _narrowed(name: str, distribution: BaseDistribution, values: Any) -> BaseDistribution:
    given = tuple(values) if isinstance(values, list | tuple) else (values,)
    is_categorical = isinstance(distribution, CategoricalDistribution)
    shown = _text(given, "," if is_categorical else ":") or "nothing"
    error = ValueError(f"{name} takes {in_words(distribution)}, not {shown}")
    if isinstance(distribution, CategoricalDistribution):
        choices = {(type(choice), choice): choice for choice in distribution.choices}
        if not given or not {(type(value), value) for value in given} <= choices.keys():
            raise error
        return CategoricalDistribution(tuple(choice for choice in distribution.choices if choice in given))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    number = int if isinstance(distribution, IntDistribution) else (int, float)
    if len(given) not in {1, 2} or not all(isinstance(v, number) and not isinstance(v, bool) for v in given):
        raise error
    low, high = type(distribution.low)(given[0]), type(distribution.low)(given[-1])
    if not distribution.low <= low <= high <= distribution.high or not _is_on_grid(distribution, low, high):
        raise error
    return type(distribution)(low, high, log=distribution.log, step=distribution.step)  # type: ignore[arg-type]


def _unknown(name: str, distributions: Distributions) -> ValueError:
    similar = get_close_matches(name.lower(), distributions, 3)
    known = f"similar ones are {', '.join(similar)}" if similar else f"it has {', '.join(distributions)}"
    return ValueError(f"the space has no param {name!r}; {known}")


def _is_on_grid(distribution: IntDistribution | FloatDistribution, *values: float) -> bool:
    if distribution.step is None:
        return True
    start, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return all((Decimal(str(value)) - start) % step == 0 for value in values)


def range_of(distribution: BaseDistribution) -> Range:
    """The range of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low, distribution.high


def single_value(distribution: BaseDistribution) -> Any:
    """The value of a param that is fixed: the first of its range."""
    return range_of(distribution)[0]


def parse(distributions: Distributions, text: str) -> tuple[str, Range]:
    """Name and range of a text such as ``optimizer=sgd``, ``schedule=one_cycle,cosine`` or ``dropout=0:0.1``.

    Raises:
        ValueError: not such a text, no such param, or no values of its kind.
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"a range is NAME=VALUE, NAME=LOW:HIGH or NAME=CHOICE,CHOICE, not {text!r}")
    if name not in distributions:
        raise _unknown(name, distributions)
    distribution = distributions[name]
    error = ValueError(f"{name} takes {in_words(distribution)}, not {values}")
    if isinstance(distribution, CategoricalDistribution):
        choices = {_text((choice,)): choice for choice in distribution.choices}
        if not set(values.split(",")) <= choices.keys():
            raise error
        return name, tuple(choices[value] for value in values.split(","))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    try:
        return name, tuple(type(distribution.low)(value) for value in values.split(":"))
    except ValueError:
        raise error from None


def to_text(distribution: BaseDistribution) -> str:
    """The range of a distribution as ``parse`` reads it after ``NAME=``."""
    values = range_of(distribution)
    if isinstance(distribution, CategoricalDistribution) or distribution.single():
        return _text(values if isinstance(distribution, CategoricalDistribution) else values[:1])
    return "{}:{}".format(*values)


def from_toml(text: str) -> dict[str, Any]:
    """Ranges by name in a TOML document, unchecked; ValueError if it is not one."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not a TOML document: {error}") from None


def to_toml(distributions: Distributions) -> str:
    """The whole space as a TOML document."""
    lines = [f"{name} = {_toml(range_of(distribution))}" for name, distribution in distributions.items()]
    return TOML_COMMENT + "\n".join(lines) + "\n"


def _toml(values: Range) -> str:
    return "[" + ", ".join(f'"{v}"' if isinstance(v, str) else _text((v,)) for v in values) + "]"


def _text(values: Range, separator: str = ",") -> str:
    return separator.join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def in_words(distribution: BaseDistribution) -> str:
    """The values of a distribution, such as ``4 to 30``."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(_text((choice,)) for choice in distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.single():
        return f"{distribution.low:g}"
    values = f"{distribution.low:g} to {distribution.high:g}"
    if distribution.log:
        return f"{values} on a log scale"
    return values if distribution.step in {None, 1} else f"{values} in steps of {distribution.step:g}"


def invalid_params(distributions: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> str | None:
    """The params whose values are outside of their ranges, in words; None without one.

    Names that the distributions lack are ignored, as Optuna ignores them in an enqueued trial.
    """
    known = {name: value for name, value in params.items() if name in distributions}
    wrong = [
        f"{name} takes {in_words(distributions[name])}, not {value!r}"
        for name, value in known.items()
        if not _contains(distributions[name], value)
    ]
    return "; ".join(wrong) or None


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))  # noqa: SLF001
    except (ValueError, TypeError):
        return False
