"""What is put first is trained first, once, and never over the budget."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from optuna.trial import TrialState

from experiments import SEEDS, Experiment, ours
from mnist_search.errors import UsageError
from mnist_search.study.ledger import Ledger
from mnist_search.study.lessons import lessons, nearest, taught
from mnist_search.study.warm import enqueue_best, enqueue_plans, enqueue_seeds, known_plans
from search_space import SearchSpace


def ledger_of(store, budget, target=3):
    experiment = Experiment(budget=budget, space=SearchSpace.for_budget(budget))
    return Ledger.open_or_create(store, f"budget-{budget}", experiment, target)


@pytest.mark.parametrize("name", [name for name in SEEDS if SEEDS[name].genes])
def test_the_nearest_genes_are_a_point_of_any_space(name):
    for budget in (1000, 8000, 25_000):
        experiment = Experiment(budget=budget, space=SearchSpace.for_budget(budget))
        genes = nearest(experiment, SEEDS[name].genes)

        assert genes.keys() == experiment.space.distributions.keys()
        for gene, distribution in experiment.space.distributions.items():
            inside = distribution._contains(distribution.to_internal_repr(genes[gene]))
            assert inside, gene


def test_seed_001_is_a_point_of_the_space():
    experiment = Experiment(budget=8000, space=SearchSpace.for_budget(8000))

    network = experiment.space.architecture(nearest(experiment, SEEDS["seed-001"].genes))

    assert network.num_params() == SEEDS["seed-001"].claim.num_params
    assert str(network) == "6-12-P-24-12-P-10-G-fc10"


def test_seeds_that_fit_are_trained_first_and_once(store):
    ledger = ledger_of(store, 8000)

    assert enqueue_seeds(ledger) == ["seed-001"]
    assert enqueue_seeds(ledger) == ["seed-001"]

    assert len(ledger.study.trials) == 1
    claim = ledger.claim()
    assert claim.trial.params["width_3"] == 24
    assert ledger.claim().trial.number == 1


def test_our_training_is_a_point_of_the_space():
    experiment = Experiment(budget=8000, space=SearchSpace.for_budget(8000))

    config = experiment.space.decode(nearest(experiment, {**ours.PLAN, **ours.TRAINING_GENES}))

    assert config.training == ours.TRAINING
    assert str(config.architecture) == "8v-16v-P-8x1-12v-16v-20v-G-fc16-fc10"


@pytest.mark.parametrize("budget", [1000, 8000, 30_000])
def test_known_plans_fill_the_budget_and_are_put_first_once(store, budget):
    ledger = ledger_of(store, budget, target=5)

    for _ in range(2):
        enqueue_plans(ledger)

    assert len(ledger.study.trials) == 1 + sum(bool(seed.genes) for seed in SEEDS.values()) == 5
    for _ in range(5):
        config = ledger.experiment.space.suggest(ledger.claim().trial)
        assert 0.85 * budget < config.architecture.num_params() <= budget
        assert config.training == ours.TRAINING


def test_a_plan_keeps_its_proportions_where_the_bounds_are_narrower_than_it(store):
    experiment = ledger_of(store, 1000).experiment
    assert experiment.space.width == (2, 11)

    network = experiment.space.architecture(known_plans(experiment)[0])

    assert str(network) == "2v-5v-P-2x1-4v-5v-6v-G-fc16-fc10"  # of 8-16, 8, 12-16-20


def test_a_study_that_has_begun_is_left_as_it_is(store):
    ledger = ledger_of(store, 8000)
    ledger.claim()

    enqueue_plans(ledger)

    assert len(ledger.study.trials) == 1


def test_no_more_plans_are_put_first_than_there_are_places(store):
    ledger = ledger_of(store, 8000, target=2)

    enqueue_plans(ledger)

    assert len(ledger.study.trials) == 2


def test_a_larger_budget_takes_more_seeds(store):
    assert enqueue_seeds(ledger_of(store, 12_000)) == ["seed-000", "seed-001", "seed-004"]


def test_nothing_over_the_budget_is_put_first(store):
    ledger = ledger_of(store, 8000)
    genes = nearest(ledger.experiment, SEEDS["seed-000"].genes)

    with pytest.raises(UsageError, match="8,942 parameters is over the budget of 8,000"):
        ledger.enqueue(genes)
    assert ledger.study.trials == []


def test_a_trial_of_another_study_is_enqueued_by_its_number(store, command, tmp_path):
    small, large = ledger_of(store, 2000), ledger_of(store, 4000)
    small.claim()
    there = ("--storage", f"sqlite:///{tmp_path}/store.db")

    done = command("enqueue", large.name, "--from", small.name, "--trial", "0", *there)
    again = command("enqueue", large.name, "--from", small.name, "--trial", "0", *there)

    assert (done.code, again.code) == (0, 0), done.err
    assert "will be trained next in budget-4000" in done.out
    assert "is there already" in again.out
    assert len(large.study.trials) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "either --recipe NAME or --trial NUMBER"),
        (("--recipe", "seed-003"), 66, "no recipe 'seed-003' that the space comes near to"),
        (("--trial", "5"), 66, "has no trial 5"),
        (("--recipe", "seed-000"), 2, "over the budget of 8,000"),
    ],
)
def test_what_cannot_be_enqueued_is_told_in_one_line(store, command, tmp_path, arguments, code, said):
    ledger = ledger_of(store, 8000)

    done = command("enqueue", ledger.name, *arguments, "--storage", f"sqlite:///{tmp_path}/store.db")

    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert said in done.err
    assert ledger.study.trials == []


def test_a_larger_budget_begins_with_the_best_of_a_smaller_one(store):
    small, large = ledger_of(store, 2000, target=4), ledger_of(store, 4000)
    for accuracy in (0.95, 0.97, 0.96, 0.94):
        claim = small.claim()
        claim.trial.set_user_attr("num_params", 1900)
        small.settle(
            claim, TrialState.COMPLETE, accuracy, left={"curve": [{"val_accuracy": accuracy, "val_loss": 0}]}
        )

    enqueue_best(large, small.facts())
    enqueue_best(large, small.facts())

    waiting = [trial.system_attrs["fixed_params"] for trial in large.study.trials]
    best = [small.study.trials[number].params for number in (1, 2, 0)]
    assert [genes["depth"] for genes in waiting] == [genes["depth"] for genes in best]
    assert all(large.experiment.parameter_budget.fits(genes) for genes in waiting)
    counts = [large.experiment.parameter_budget.count(genes) for genes in waiting]
    assert min(counts) > 2000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_ladder_searches_one_budget_after_the_other(command, mnist_dir):
    quick = ("--trials", "2", "--epochs", "1", "--train-images", "1000", "--val-images", "500", "--no-mlflow")

    done = command("run", "--budget", "3000,1500", *quick, "--data-dir", mnist_dir, timeout=280)

    assert done.code == 0, done.err
    assert done.err.index("study budget-1500") < done.err.index("study budget-3000")
    rows = json.loads(command("studies", "--format", "json").out)
    assert [(row["study"], row["trials_done"]) for row in rows] == [("budget-1500", 2), ("budget-3000", 2)]


def complete(ledger, accuracies):
    """Settle as many trials as there are accuracies; those that wait come first."""
    for accuracy in accuracies:
        claim = ledger.claim()
        ledger.experiment.space.suggest(claim.trial)
        curve = {"curve": [{"val_accuracy": accuracy, "val_loss": 0}]}
        ledger.settle(claim, TrialState.COMPLETE, accuracy, left=curve)


def test_a_budget_learns_from_every_complete_trial_of_the_smaller_ones(store):
    ledgers = [ledger_of(store, budget, target=20) for budget in (1000, 2000, 4000)]
    for ledger, trials in zip(ledgers, (3, 2, 0), strict=True):
        complete(ledger, [0.9 + 0.01 * i for i in range(trials)])
    for smaller, larger in pairwise(ledgers):
        enqueue_best(larger, smaller.facts())
    largest = ledgers[-1]

    known = lessons(store, largest.study, largest.experiment)

    assert [[trial.value for trial in trials] for trials in known] == [[0.9, 0.91], [0.9, 0.91, 0.92]]
    budget = largest.experiment.parameter_budget
    assert all(0.7 * 4000 < budget.count(t.params) <= 4000 for trials in known for t in trials)
    assert lessons(store, ledgers[0].study, ledgers[0].experiment) == []


def test_what_is_known_of_a_smaller_budget_is_ranked_beside_our_own(store):
    small, large = ledger_of(store, 2000, target=3), ledger_of(store, 4000, target=9)
    complete(small, [0.90, 0.92, 0.91])
    enqueue_best(large, small.facts())
    complete(large, [0.95, 0.97])

    memory, trial = taught(large.study, lessons(store, large.study, large.experiment))

    assert [t.value for t in memory.trials[:-1]] == pytest.approx([0.95, 0.97, 0.96, 0.95, 0.97])
    assert (memory.trials[-1].number, trial.state) == (trial.number, TrialState.RUNNING)


def test_proposals_are_other_ones_once_a_smaller_budget_is_known(store):
    small = ledger_of(store, 2000, target=12)
    complete(small, [0.9 + 0.001 * i for i in range(12)])
    knowing, *blank = (ledger_of(store, budget, target=9) for budget in (4000, 4001, 4002))
    knowing.learn_from(small.name)

    genes, *others = (ledger.claim().trial.params for ledger in (knowing, *blank))

    assert knowing.experiment.parameter_budget.fits(genes)
    assert others[0]["adamw_lr"] == others[1]["adamw_lr"] != genes["adamw_lr"]
    assert len(knowing.study.trials) == 1


def test_a_smaller_study_that_is_gone_teaches_nothing(store):
    large = ledger_of(store, 4000, target=9)
    large.learn_from("gone")

    assert large.claim() is not None
