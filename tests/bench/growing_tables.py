"""How a database of results grows: writing, auditing, building the index and searching, at each size."""
import contextlib
import json
import os
import statistics
import subprocess
import threading
import time
import uuid

import common
import psycopg

ROWS = [n for n in (10_000, 100_000, 1_000_000, 5_000_000) if n <= int(os.environ.get("ROWS_MAX", 5_000_000))]
# More vectors than an index build has memory for (2 GB) take hours on a few cores.
INDEXED_MAX = int(os.environ.get("INDEXED_MAX", 1_000_000))
UNIT, MORE, QUERIES, HITS = 1000, 20_000, 5, 10
SPAWN = common.TARGET / "release" / "spawn"
# As in pipeline/postgres/src/search.rs for as many hits; an expression around the distance keeps the index out.
NEAR = HITS + HITS // 2 + 8
ORDER = {"exact": "(e.vector <=> %(vector)s::halfvec) + 0", "index": "e.vector <=> %(vector)s::halfvec"}
TUNE = "SELECT set_config('hnsw.ef_search', '120', true), set_config('hnsw.iterative_scan', 'relaxed_order', true)"
SEARCH = """
WITH near AS MATERIALIZED (
    SELECT e.item, e.chunk, e.vector <=> %(vector)s::halfvec AS distance FROM spawn.embedding_1 e ORDER BY {order} LIMIT {near}
), best AS (
    SELECT DISTINCT ON (item) item, chunk, distance FROM near WHERE distance <> 'NaN' ORDER BY item, distance
)
SELECT encode(substr(r.id_hash, 1, 16), 'hex') AS id, b.chunk, b.distance, r.labels, r.source_uri, r.metadata, (SELECT count(*) FROM near) AS scanned
  FROM best b JOIN spawn.result r ON r.generation = 1 AND r.item = b.item
 ORDER BY b.distance, r.item LIMIT {hits}"""
PROGRESS = """
SELECT p.tuples_done, count(a.pid) FROM pg_stat_progress_create_index p LEFT JOIN pg_stat_activity a ON a.leader_pid = p.pid
 WHERE p.datname = current_database() GROUP BY p.pid, p.tuples_done"""


@contextlib.contextmanager
def database():
    """The URL of an empty one."""
    name = f"growth_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + name
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def search(url, how, rows):
    """Milliseconds of the statement as a client sees them, median over some items; none where the plan is not the wanted one."""
    statement, took = SEARCH.format(order=ORDER[how], near=NEAR, hits=HITS), []
    with psycopg.connect(url) as db:
        items = [1 + rows * n // (QUERIES + 1) for n in range(QUERIES + 1)]
        vectors = [vector for vector, in db.execute("SELECT vector::text FROM spawn.embedding_1 WHERE item = ANY(%s) AND chunk = 0", [items])]
        for vector in vectors:
            db.execute(TUNE)
            started = time.perf_counter()
            hits = db.execute(statement, {"vector": vector}, prepare=False).fetchall()
            took.append(1e3 * (time.perf_counter() - started))
            if len(hits) != HITS:
                raise SystemExit(f"{len(hits)} of {HITS} hits")
            db.commit()
        db.execute(TUNE)
        plan = "\n".join(line for line, in db.execute("EXPLAIN (COSTS OFF) " + statement, {"vector": vectors[0]}, prepare=False))
    if ("_hnsw" in plan) != (how == "index"):
        common.say(f"not the plan of {how}:\n{plan}")
        return None
    # The first one opens what the others find open.
    return round(statistics.median(took[1:]), 3)


def index(url, environment):
    """What `spawn index` tells, the most parallel workers seen meanwhile beside the leader, and how many different states of its progress."""
    workers, steps, built = [0], set(), threading.Event()

    def watch():
        with psycopg.connect(url, autocommit=True) as db:
            while not built.wait(0.05):
                for done, helpers in db.execute(PROGRESS):
                    steps.add(done)
                    workers.append(helpers)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        told = subprocess.run([SPAWN, "index", "--json"], env=environment, check=True, capture_output=True, text=True)
    finally:
        built.set()
        watcher.join()
    return {"index_seconds": round(json.loads(told.stdout)["seconds"], 3), "index_workers": max(workers), "index_progress_steps": len(steps)}


def table(binary, rows):
    with database() as url:
        environment = {**os.environ, "DATABASE_URL": url}

        def write(number):
            return common.run([binary, "--rows", number, "--unit", UNIT], env=environment)

        wrote = write(rows)
        with psycopg.connect(url, autocommit=True) as db:
            size = db.execute("SELECT pg_database_size(current_database())").fetchone()[0]
            # Statistics, as the server would have them by itself a while later.
            db.execute("ANALYZE")
        started = time.perf_counter()
        subprocess.run([SPAWN, "audit"], env=environment, check=True, capture_output=True)
        audit_seconds = round(time.perf_counter() - started, 3)
        row = {"rows": rows, "rows_per_second": round(wrote["rows_per_second"]), "last_tenth_rows_per_second": round(wrote["last_tenth_rows_per_second"]),
               "peak_rss_bytes": wrote["process"]["peak_rss_bytes"], "database_bytes": size, "audit_seconds": audit_seconds,
               "search_exact_ms": search(url, "exact", rows)}
        if rows > INDEXED_MAX:
            return row
        return {**row, **index(url, environment), "search_index_ms": search(url, "index", rows), "indexed_rows_per_second": round(write(MORE)["rows_per_second"])}


def tables():
    binary = common.build_example("write_rows")
    for rows in ROWS:
        yield table(binary, rows)
