# One image for every part of the cluster (target nasctl) and a small one for its database (target
# postgres). Docker's old builder can build it too: no RUN --mount, no here-documents.
#
#   TORCH        cpu (default) or cuda
#   TORCH_INDEX  where the CPU build of PyTorch comes from; not asked if docker/wheels has one
#   BASE_IMAGE   Debian with Python 3.11 and apt
#   UID          of the user that everything runs as; the owner of the secret files
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS postgres
ARG UID=10001
ENV DEBIAN_FRONTEND=noninteractive
# The package would make a database of its own as it is installed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-common \
    && sed -ri 's/#(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf \
    && apt-get install --yes --no-install-recommends postgresql \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && useradd --uid "$UID" --user-group --create-home --shell /usr/sbin/nologin database \
    && install -d -o database -g database -m 700 /var/lib/postgresql/data
COPY docker/postgres.sh /opt/docker/
ENV PGHOST=/tmp
USER database
ENTRYPOINT ["/opt/docker/postgres.sh"]

FROM ${BASE_IMAGE} AS requirements
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*p["dependencies"], *p["optional-dependencies"]["cluster"], sep="\n")' > requirements.txt

FROM ${BASE_IMAGE} AS libraries
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# The system's certificates, so that a company's own authority in the base image is enough.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/nasctl/bin:$PATH
# Byte code of Python's own library, which the python images come without: no process here could keep
# it. That of everything else is made by pip.
RUN python3 -m venv /opt/nasctl \
    && python -m compileall -q -x '/(tests?|site-packages|dist-packages)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
WORKDIR /src
COPY docker/wheels /wheels
COPY constraints.txt ./
# The image is made of the next two layers, since copying them into a clean one takes minutes: what
# nobody needs goes in the step that brought it.
#
# PyTorch first and alone: for the CPU nothing but the CPU index is asked, since PyPI's build brings
# several gigabytes of CUDA.
RUN set -eu; \
    torch="$(grep '^torch==' constraints.txt)"; \
    case "$TORCH" in \
        cuda) rm -f /wheels/torch-*+cpu*.whl; \
              pip install --find-links /wheels -c constraints.txt "$torch" ;; \
        cpu) if ls /wheels/torch-*.whl >/dev/null 2>&1; then from="--no-index --find-links /wheels"; \
             else from="--index-url $TORCH_INDEX"; fi; \
             pip install --no-deps $from "$torch" ;; \
        *) echo "TORCH: expected cpu or cuda, got $TORCH" >&2; exit 2 ;; \
    esac; \
    cd /opt/nasctl/lib/python3.11/site-packages/torch; \
    rm -rf include test bin/test_* bin/*Test bin/protoc*; \
    find /opt/nasctl -path '*/tests/*' -name '*.pyc' -delete
# The libraries before the project: a change of its code does not fetch them again.
COPY --from=requirements /requirements.txt ./
RUN pip install --find-links /wheels -c constraints.txt -r requirements.txt \
    && pip check \
    && rm -rf /opt/nasctl/lib/python3.11/site-packages/ray/jars \
    && find /opt/nasctl -path '*/tests/*' -name '*.pyc' -delete

FROM libraries AS project
COPY README.md LICENSE ./
COPY conf conf
COPY nasctl nasctl
COPY search_spaces search_spaces
COPY pyproject.toml ./
RUN pip install --no-deps --no-build-isolation --target /project .

FROM libraries AS nasctl
ARG UID=10001
RUN pip uninstall --yes --quiet pip \
    && rm -rf /wheels /src \
    && useradd --uid "$UID" --user-group --create-home --shell /usr/sbin/nologin nasctl \
    && install -d -o nasctl -g nasctl -m 750 /runs /mlartifacts /work
# A layer of its own: a change of the project's code moves a few megabytes, not all of PyTorch.
COPY --from=project /project /opt/nasctl/lib/python3.11/site-packages
COPY --from=project /project/bin /opt/nasctl/bin
COPY docker/entry.sh docker/node.py docker/mlflow.sh docker/mlflow_health.py \
     docker/ray_health.py /opt/docker/
ENV PYTHONUNBUFFERED=1 HOME=/home/nasctl \
    RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
USER nasctl
WORKDIR /work
ENTRYPOINT ["/opt/docker/entry.sh"]
CMD ["nasctl", "--help"]
