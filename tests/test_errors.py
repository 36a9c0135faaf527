"""Messages of errors show no password."""

from __future__ import annotations

import logging

import pytest

from mnist_search.errors import MnistSearchError, first_line, masked
from mnist_search.process_env import MaskingFormatter

CANARY = "c4n4ry"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:{}@host/database",
        "postgresql+psycopg://user:a%40{}%2F@host:5432/database?sslmode=require",
        "postgresql://user:a/{}@host/database",
        "postgresql://user:a@{}@host/database",
        "postgresql://user:it's {}@host/database",
        "postgresql://host/database?user=u&password={}&sslmode=require",
        "postgresql://host/database?sslpassword={}",
        "http://user:{}@host:5000",
        "https://:{}@host/path",
        "http//user:{}@host",
    ],
)
def test_password_of_a_url_is_masked_wherever_it_stands(url):
    for text in ("{}", "cannot reach '{}': refused", "--storage={} --debug", "{}\nhttp://host:5000"):
        shown = masked(text.format(url.format(CANARY)))

        assert CANARY not in shown
        assert "***" in shown
        assert "host" in shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/a:b@c/store.db",
        "http://host:5000/#/experiments and mail to a@b",
        "postgresql://user@host:5432/database",
        "models:/mnist-search-8000@champion",
    ],
)
def test_text_without_a_password_is_unchanged(text):
    assert masked(text) == text


def test_errors_and_log_lines_are_masked():
    url = f"http://user:{CANARY}@host:5000"
    record = logging.LogRecord("name", logging.WARNING, "", 0, "retry of %s", (url,), None)

    texts = [str(MnistSearchError(f"no {url}")), first_line(OSError(f"no {url}"))]
    texts.append(MaskingFormatter("%(message)s").format(record))

    assert [text for text in texts if CANARY in text or "user:***@host:5000" not in text] == []
