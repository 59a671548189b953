#!/bin/bash
# Run Celery's own tests with MODULE:CLASS as every app's default task class, and tell what fails that
# does not fail under plain Celery. The tests are downloaded with Celery's source distribution.
#
#   run.sh unit|integration MODULE:CLASS PROJECT_DIR
#
# PROJECT_DIR is pip-installed (editable) into a throw-away virtual environment; "-" installs nothing,
# which with celery:Task as the class gives the plain run that the baseline files were recorded from.
# Needs python3, redis-server and a package index for pip.
#
# Ends with "N passed, M failed beyond baseline (up to five names)" and exits 0 only if M is 0.
# baseline-unit.txt and baseline-integration.txt name the tests that also fail, or are flaky, without
# the swap, each with its reason.
#
# Time on two cores, with the half minute that the virtual environment takes: unit 5 to 6 minutes,
# integration about 7 (its processes take 23 in all, but mostly wait, so four run at once).
#
# Environment (all optional):
#   CELERY_VERSION     the Celery to test against, and whose tests to run (the baselines are for 5.7.0)
#   SWAP_DEEP=1        the tests' own "from celery import Task" gives the class as well, so that tasks with
#                      a base class of their own are swapped too (the unit job "fresh" always does so)
#   SUITE_WORK=DIR     keep downloads, the virtual environment and logs in DIR, and reuse them next time
#   SUITE_LANES=N      how many test processes run at once (default 4 for integration: they mostly wait)
#   PYTHON=COMMAND     the interpreter for the virtual environment (default python3)
#   SUITE_ONLY=TEXT    only the jobs whose name contains TEXT (names: see the list of jobs below)
set -euo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -eq 3 ] || usage
MODE=$1 CLASS=$2 PROJECT=$3
[ "$MODE" = unit ] || [ "$MODE" = integration ] || usage

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VERSION=${CELERY_VERSION:-5.7.0}
if [ "$PROJECT" != - ]; then PROJECT=$(cd "$PROJECT" && pwd); fi
if [ -n "${SUITE_WORK:-}" ]; then
    mkdir -p "$SUITE_WORK"; WORK=$(cd "$SUITE_WORK" && pwd); KEEP=1
else
    WORK=$(mktemp -d); KEEP=
fi
RUN=$(mktemp -d "$WORK/run.XXXXXX")
REDIS_PIDS=()
JOB_PIDS=()

cleanup() {
    local pid
    for pid in "${JOB_PIDS[@]}" "${REDIS_PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
    if [ -z "$KEEP" ]; then rm -rf "$WORK"; fi
}
trap cleanup EXIT

# -- what is tested -------------------------------------------------------------------------------
PY=$WORK/venv/bin/python
[ -x "$PY" ] || "${PYTHON:-python3}" -m venv "$WORK/venv"
pip() { "$PY" -m pip --disable-pip-version-check -qq "$@"; }

SUITE=$WORK/celery-$VERSION
if [ ! -f "$SUITE/.ready" ]; then
    rm -rf "$SUITE"; mkdir -p "$SUITE" "$RUN/sdist"
    pip download --no-deps --no-binary celery -d "$RUN/sdist" "celery==$VERSION"
    # not the celery package of the sdist: the tests shall import the installed one
    tar xzf "$RUN"/sdist/celery-*.tar.gz -C "$SUITE" --strip-components=1 --wildcards \
        '*/t' '*/requirements' '*/pyproject.toml'
    # Celery's own list of test requirements, less linters and the clients of cloud stores
    (
        cd "$SUITE/requirements"
        grep -vE '^(#|mypy|pre-commit|-r extras/(gcs|azureblockblob)\.txt)' test.txt
        for extra in redis sqlalchemy pymemcache auth solar tblib django; do echo "-r extras/$extra.txt"; done
        grep '^fakeredis' test-ci-default.txt
    ) >"$SUITE/requirements/swap.txt"
    pip install "celery==$VERSION" -r "$SUITE/requirements/swap.txt"
    touch "$SUITE/.ready"
fi
if [ "$PROJECT" != - ]; then pip install -e "$PROJECT" "celery==$VERSION"; fi

# -- jobs: one line each: name|pytest arguments ---------------------------------------------------
JOBS=()
if [ "$MODE" = unit ]; then
    LANES=${SUITE_LANES:-2}
    # two modules need cloud clients that are not installed; nothing in them depends on the task class
    JOBS+=("all|t/unit --ignore=t/unit/backends/test_azureblockblob.py --ignore=t/unit/backends/test_gcs.py")
    # Once more in a process of its own: in "all", earlier tests leave behind the patch that workers make
    # to Task.__call__, which hides what a class does to tasks that run eagerly, outside a worker.
    JOBS+=("fresh|t/unit/tasks t/unit/app t/unit/test_canvas.py")
    TEST_TIMEOUT=60
else
    LANES=${SUITE_LANES:-4}
    # one process for each module, as in Celery's CI; the longest first, and test_canvas in parts
    for part in 1 2 3; do JOBS+=("canvas-$part|t/integration/test_canvas.py --part=$part/3"); done
    JOBS+=("tasks|t/integration/test_tasks.py")
    for file in "$SUITE"/t/integration/test_*.py; do
        name=$(basename "$file" .py); name=${name#test_}
        case $name in
        canvas|tasks) ;;
        backend) ;;  # needs a cloud store
        backend_leak_in_fixture_teardown) ;;  # two minutes of starting workers that have no tasks
        *) JOBS+=("$name|t/integration/test_$name.py") ;;
        esac
    done
    TEST_TIMEOUT=180
fi

# -- running --------------------------------------------------------------------------------------
# as in Celery's tox.ini
export WORKER_LOGLEVEL=INFO PYTHONIOENCODING=UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 BOTO_CONFIG=/dev/null
export SWAP_TASK=$CLASS PYTHONPATH=$HERE/swap PATH=$WORK/venv/bin:$PATH

start_redis() {  # sets PORT
    local dir pid try
    dir=$(mktemp -d "$RUN/redis.XXXXXX")
    PORT=$("$PY" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    redis-server --port "$PORT" --bind 127.0.0.1 --save '' --appendonly no --dir "$dir" >"$dir/log" 2>&1 &
    pid=$!
    REDIS_PIDS+=("$pid")
    for try in $(seq 50); do
        if "$PY" -c "import redis; redis.Redis(port=$PORT).ping()" 2>/dev/null; then return; fi
        sleep 0.2
    done
    echo "redis-server did not start:" >&2; cat "$dir/log" >&2; exit 2
}

run_job() {  # NAME ARGUMENTS: leaves NAME.log and NAME.report in $RUN
    local name=$1 args=$2
    cd "$SUITE"
    if [ "$name" = fresh ]; then export SWAP_DEEP=1; fi
    # shellcheck disable=SC2086
    SWAP_REPORT=$RUN/$name.report exec timeout 1800 "$PY" -m pytest -p swap_plugin -p no:cacheprovider \
        --timeout="$TEST_TIMEOUT" -v -rfE --durations=10 $args >"$RUN/$name.log" 2>&1
}

lane() {  # takes jobs until there are none left
    local name args line started
    while line=$("$PY" "$HERE/results.py" next "$RUN/queue"); do
        name=${line%%|*} args=${line#*|}
        started=$SECONDS
        run_job "$name" "$args" &
        trap 'kill $! 2>/dev/null' TERM
        wait $! || true
        echo "$name: $((SECONDS - started)) s: $(tail -n 1 "$RUN/$name.log")"
    done
}

run_queue() {  # JOB...
    local job i pids=()
    : >"$RUN/queue"
    for job in "$@"; do
        case "${job%%|*}" in *"${SUITE_ONLY:-}"*) echo "$job" >>"$RUN/queue" ;; esac
    done
    for i in $(seq 0 $((LANES - 1))); do
        if [ "$MODE" = integration ]; then
            [ -n "${PORTS[$i]:-}" ] || { start_redis; PORTS[$i]=$PORT; }
            # one database for both: a test looks for the backend's keys in database 0
            export TEST_BROKER=redis://127.0.0.1:${PORTS[$i]}/0 TEST_BACKEND=redis://127.0.0.1:${PORTS[$i]}/0
            export REDIS_HOST=127.0.0.1 REDIS_PORT=${PORTS[$i]}
        fi
        lane & pids+=($!) JOB_PIDS+=($!)
    done
    wait "${pids[@]}" || true
    JOB_PIDS=()
}

PORTS=()
BASELINE=$HERE/baseline-$MODE.txt
run_queue "${JOBS[@]}"
if [ "$MODE" = integration ]; then
    # what failed and is not in the baseline gets one more try, in a process of its own
    mapfile -t AGAIN < <("$PY" "$HERE/results.py" again "$BASELINE" "$RUN")
    if [ ${#AGAIN[@]} -gt 0 ]; then
        echo "once more:"; printf '  %s\n' "${AGAIN[@]}"
        run_queue "${AGAIN[@]}"
    fi
fi
if [ -n "$KEEP" ]; then echo "logs: $RUN"; fi
status=0
"$PY" "$HERE/results.py" summary "$BASELINE" "$RUN" "${SUITE_ONLY:+partial}" || status=$?
exit "$status"
