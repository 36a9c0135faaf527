"""A search study: its stored StudyConfig, its number of trials, and its proposals."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from experiments import StudyConfig
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.records import StudyRecord
from mnist_search.search.configurations import check_size
from mnist_search.search.pruners import check_pruner, pruner_for
from mnist_search.search.samplers import check_sampler, sampler_for_trial
from mnist_search.storage import studies
from mnist_search.storage.database import Store, retry
from mnist_search.storage.finals import SUFFIX
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.queue import Claim, InvalidTrial, TrialQueue
from mnist_search.storage.studies import CONFIG_ATTR, KIND_ATTR, N_TRIALS_ATTR, UID_ATTR
from search_space import Architecture
from search_space.ranges import invalid_params
from search_space.space import without_range_of_depth

DEFAULT_TRIALS = 50
"""Trained trials of a new study."""


class SearchStudy:
    """One study of the store with its stored StudyConfig, open for its queue and its proposals."""

    def __init__(
        self,
        store: Store,
        study: optuna.Study,
        supervisor: ProcessIdentity | None = None,
        sampler: BaseSampler | None = None,
    ) -> None:
        self._store = store
        self._sampler, self._has_proposed = sampler, False
        self.study = study
        self.name = study.study_name
        self.config = studies.stored_config(study)
        self.queue = TrialQueue(store, study, supervisor)
        study.pruner = pruner_for(self.config)

    @classmethod
    def open(
        cls,
        store: Store,
        name: str,
        supervisor: ProcessIdentity | None = None,
        sampler: BaseSampler | None = None,
    ) -> SearchStudy:
        """Open an existing study; NotFound without one, UnusableConfiguration if mnist-search did not create it.

        A worker's store is open for writing, and ``supervisor`` started it. ``sampler`` proposes in place
        of the sampler that the StudyConfig names.
        """
        return cls(store, studies.load(store, name), supervisor, sampler)

    @classmethod
    def open_or_create(
        cls, store: Store, name: str, config: StudyConfig, n_trials: int | None
    ) -> SearchStudy:
        """Open the study of this name, created if it does not exist, in a store that is open for writing.

        ``n_trials`` is the requested number of trained trials; None for the stored number, or the default.
        Raises StudyConflict if the study has another StudyConfig or is a study of finals.
        """
        with store.lock("claim"):
            study = optuna.create_study(
                study_name=name, storage=store.storage, direction="maximize", load_if_exists=True
            )
            if KIND_ATTR in study.user_attrs:
                raise StudyConflict(f"{name!r} is a study of finals; name another with --study NAME")
            if CONFIG_ATTR not in study.user_attrs and not study.trials:
                studies.name_metrics(study, "validation accuracy")
                study.set_user_attr(UID_ATTR, uuid.uuid4().hex)
                study.set_user_attr(N_TRIALS_ATTR, n_trials or DEFAULT_TRIALS)
                study.set_user_attr(CONFIG_ATTR, config.to_json())  # last: it marks a complete study
            search_study = cls(store, study)
            search_study.check_same_config(config)
            search_study.raise_n_trials(n_trials or 0)
            return search_study

    def check_same_config(self, config: StudyConfig) -> None:
        """Check that a StudyConfig equals the stored one; a StudyConflict names every difference."""
        if differences := self.config.differences(config):
            text = "; ".join(f"{name} is {old}, not {new}" for name, (old, new) in differences.items())
            raise StudyConflict(
                f"study {self.name!r} exists with another configuration ({text}); continue it with "
                f"mnist-search resume {self.name}, or create another with --study NAME"
            )

    @property
    def n_trials(self) -> int:
        """Requested number of trained trials."""
        return int(self.study.user_attrs[N_TRIALS_ATTR])

    def raise_n_trials(self, n_trials: int) -> None:
        """Request at least this many trained trials; UsageError if the space has fewer configurations."""
        if n_trials > self.n_trials:
            check_size(self.config, n_trials)
            self.study.set_user_attr(N_TRIALS_ATTR, n_trials)

    def record(self) -> StudyRecord:
        """The study with its trials, as stored now."""
        return studies.study_record(self._store, self.study)

    def enqueue(self, params: Mapping[str, Any]) -> bool:
        """Enqueue a trial with these params, before any sampled one, unless there is one.

        Returns whether a trial was added. Raises UsageError for a network over the budget.
        """
        budget = self.config.parameter_budget
        if not budget.fits(params):
            raise UsageError(
                f"a network of {budget.count(params):,} parameters is over the budget of {budget.limit:,}; "
                "enqueue a smaller one, or search with a larger --budget"
            )
        with self._store.lock("claim"):
            before = len(self.study.get_trials(deepcopy=False))
            self.study.enqueue_trial(dict(params), skip_if_exists=True)
            return len(self.study.get_trials(deepcopy=False)) > before

    def claim(self) -> Claim | None:
        """Claim the next trial with every param suggested; None without a free slot."""
        return self.queue.claim(self._suggest_params)

    def _suggest_params(self, trial: Trial) -> None:
        """Let the sampler suggest every param; those of an earlier attempt are kept.

        Raises:
            InvalidTrial: a value with which the trial was enqueued is not one of the space.
        """
        trials = self.study.get_trials(deepcopy=False)
        fixed = next(t for t in trials if t.number == trial.number).system_attrs.get("fixed_params", {})
        if wrong := invalid_params(self.config.space.distributions, fixed):
            raise InvalidTrial(f"it was enqueued with {wrong}")
        if self._sampler and not self._has_proposed:
            # Every process has the same copy of a sampler object, whose draws it must not repeat.
            if any(t.params for t in trials):
                self._sampler.reseed_rng()
            self._has_proposed = True
        earlier = [each for each in trials if each.number != trial.number]
        self.study.sampler = sampler = sampler_for_trial(self.config, trial.number, self._sampler, earlier)
        # Optuna samples at the first suggestion, so the sampler of this trial is the one in use.
        self.config.space.suggest(trial)
        if sampler.rejected:
            trial.set_user_attr("rejected", sampler.rejected)


def resolve_config(url: str, name: str, budget: int, options: Mapping[str, Any]) -> StudyConfig:
    """The StudyConfig that a command requests.

    ``options`` are fields of StudyConfig and of its SearchSpace. Those that are not given, or None, take
    the values of the stored study, so that a changed default never conflicts with it, or the defaults.
    The store need not exist.

    Raises:
        ValueError: a value is out of range, or no network of the space is within the budget.
        UsageError, UnusableConfiguration: no such sampler or pruner; mnist-search did not create the study.
    """
    values = {option: value for option, value in options.items() if value is not None}
    study = stored_study(url, name)
    if study is None:
        config = StudyConfig.for_budget(budget, **values)
    else:
        stored = studies.stored_config(study)
        of_space = ("depth", "width", "epochs", "params")
        bounds: dict[str, Any] = {name: values.pop(name) for name in of_space if name in values}
        space = replace(stored.space, **without_range_of_depth(bounds))
        config = replace(stored, budget=budget, space=space, **values)
    check_sampler(config.sampler)
    check_pruner(config.pruner)
    return config


def study_name(text: str) -> str:
    """The name, checked to be safe in paths, URLs and tags; UsageError if it is not."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise UsageError(
            f"{text!r} is not a valid study name: use at most 100 letters, digits, dots, dashes and "
            "underscores, and begin with a letter or digit"
        )
    if text.endswith(SUFFIX):
        raise UsageError(f"{text!r} is the name of finals; choose one that does not end in {SUFFIX}")
    return text


def n_trials(url: str, name: str, requested: int | None) -> int:
    """Number of trained trials of a command: requested, stored or default."""
    study = stored_study(url, name)
    stored = int(study.user_attrs[N_TRIALS_ATTR]) if study else 0
    return max(requested or stored or DEFAULT_TRIALS, stored)


def stored_study(url: str, name: str) -> optuna.Study | None:
    """The study of this name; None without a store or study, or if its creation is not complete."""
    try:
        study = retry(lambda: studies.load(Store.open(url), name))
    except NotFound:
        return None
    return study if CONFIG_ATTR in study.user_attrs or study.trials else None


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Hide Optuna's INFO lines and warnings in this process; also a decorator."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


@quiet_optuna()
def first_proposals(
    config: StudyConfig, count: int, enqueued: Sequence[Mapping[str, Any]]
) -> list[Architecture]:
    """The architectures that a new study would sample first, after its enqueued trials."""
    study = optuna.create_study(direction="maximize")
    for params in enqueued:
        study.enqueue_trial(dict(params))
    proposals = []
    for number in range(len(enqueued) + count):
        study.sampler = sampler_for_trial(config, number)
        proposals.append(config.space.suggest(study.ask()).architecture)
    return proposals[len(enqueued) :]


def is_stored(url: str, name: str, config: StudyConfig) -> bool:
    """Whether the store has the study; StudyConflict if it has another StudyConfig."""
    if stored_study(url, name) is None:
        return False
    SearchStudy.open(Store.open(url), name).check_same_config(config)
    return True
