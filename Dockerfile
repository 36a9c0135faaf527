# One image for all services of docker-compose.yml except Postgres.
FROM python:3.12-slim

RUN useradd --uid 10001 --no-create-home mnist \
    && install --directory --owner=10001 --group=10001 /data /artifacts

WORKDIR /src
COPY .ci/constraints.txt .ci/
COPY pyproject.toml README.md LICENSE ./
COPY search_space search_space
COPY experiments experiments
COPY mnist_search mnist_search
RUN PIP_CONSTRAINT=.ci/constraints.txt pip install --no-cache-dir ".[postgres,dashboard]"

USER 10001
WORKDIR /tmp
VOLUME ["/data", "/artifacts"]
CMD ["mnist-search", "--help"]
