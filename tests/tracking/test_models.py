"""Logged models in a real MLflow."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import mlflow
import pytest
import torch
from support import MLFLOW_WARNINGS
from tracked_trials import artifacts, models_in

from experiments import BASELINES
from mnist_search.tracking.models import delete_model, list_models, log_pt2
from mnist_search.tracking.setup import open_tracking
from mnist_search.training.model import build, count

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def tracking(config, study):
    return open_tracking(config, study)


def folder_of(model):
    return Path(urlparse(model.artifact_location).path)


def test_logged_model_is_pt2_with_a_dynamic_batch_and_the_same_logits(tracking, client, digits):
    network = build(BASELINES["seed-001"].architecture, seed=0).eval()
    run_id = tracking.parent_run_id

    model_id = log_pt2(tracking, run_id, network, digits[:100], name="model", step=3, tags={"study": "s"})

    loaded = mlflow.pytorch.load_model(f"models:/{model_id}")
    for batch in (1, 3, 64):
        x = torch.rand(batch, 1, 28, 28)
        assert torch.allclose(loaded(x), network(x), atol=1e-5)
    assert count(loaded) == 7204
    (stored,) = models_in(client)
    assert (stored.source_run_id, str(stored.status), stored.tags["study"]) == (run_id, "READY", "s")
    assert {p.name for p in (folder_of(stored) / "data").iterdir()} == {"model.pt2"}
    requirements = (folder_of(stored) / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in requirements] == ["mlflow", "torch", "numpy"]
    assert stored.params["num_params"] == "7204"
    assert "confusion_matrix.png" in artifacts(client, run_id)


def test_deleted_model_has_no_files_left(tracking, client, digits):
    network = build(BASELINES["seed-003"].architecture, seed=0).eval()
    model_id = log_pt2(tracking, tracking.parent_run_id, network, digits[:100], name="model", step=3, tags={})
    folder = folder_of(client.get_logged_model(model_id))
    assert folder.exists()

    delete_model(tracking, model_id)
    delete_model(tracking, model_id)  # twice is no error

    assert not folder.exists()
    assert models_in(client) == []


def test_models_are_listed_oldest_first_beyond_one_page(tracking, client):
    created = [
        client.create_logged_model(tracking.experiment_id, name=f"m{i}", source_run_id=tracking.parent_run_id)
        for i in range(102)
    ]

    listed = list_models(tracking)

    assert [m.model_id for m in listed] == [m.model_id for m in created]
