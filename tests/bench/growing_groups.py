"""How a consumer group grows: several workers of one group on one topic."""
import statistics

import common
import confluent_kafka
from live_world import Place, until

PARTITIONS, RUNS, WORKERS = 8, 3, (1, 2, 4)
# Modality, model, files, records.
LINES = [("image", "efficientnet-lite0", "*.jpg", 3000), ("text", "minilm-l6", "*.txt", 900)]
SPANS = """
SELECT t.records, extract(epoch FROM t.written_at)::float8 FROM spawn.span t JOIN spawn.source s ON s.id = t.source
 WHERE s.pipeline = %s AND t.kind = 'batch' ORDER BY t.written_at"""


def partitions(place, modality):
    """How many each member of the group has."""
    group = f"{place.name}.{modality}"
    try:
        members = place.kafka.describe_consumer_groups([group])[group].result().members
    except confluent_kafka.KafkaException:
        return []
    return [len(member.assignment.topic_partitions) for member in members]


def rate(place, modality, records):
    """Records a second on one clock, the database's: without the first fifth, in which all warm up, and the last tenth, in which some have nothing left."""
    done, marks = 0, []
    for count, at in place.rows.execute(SPANS, [modality]):
        done += count
        if records / 5 <= done and (done <= 0.9 * records or len(marks) < 2):
            marks.append((done, at))
    (first, begun), (last, ended) = marks[0], marks[-1]
    return (last - first) / (ended - begun)


def run(modality, model, files, records, workers):
    place = Place({modality: f'model = "{model}"'}, partitions=PARTITIONS)
    try:
        for _ in range(workers):
            place.start()
        until("a share of the partitions for every worker", 120, lambda: sorted(partitions(place, modality)) == [PARTITIONS // workers] * workers)
        until("the claims", 60, lambda: place.rows.execute("SELECT count(*) FROM spawn.checkpoint").fetchone()[0] == PARTITIONS)
        for n in range(records):
            place.file(modality, str(n), files[n % len(files)], n % PARTITIONS)
        place.producer.flush(30)
        # Four workers on two cores put off a few files that could not be read within the time limit, and come back to them.
        until("all results", 600, lambda: place.rows.execute("SELECT count(*) FROM spawn.record WHERE outcome = 0").fetchone()[0] == records)
        if place.audited(modality) != records:
            raise SystemExit("not every record became a result")
        return {"items_per_second": rate(place, modality, records), "peak_rss_bytes": place.spent()["peak_rss_bytes"]}
    finally:
        place.end()


def processes():
    for modality, model, pattern, records in LINES:
        files = sorted((common.DATA / {"image": "images"}.get(modality, modality)).rglob(pattern))
        for workers in WORKERS:
            runs = [run(modality, model, files, records, workers) for _ in range(RUNS)]
            yield {"modality": modality, "processes": workers, "items_per_second": round(statistics.median(told["items_per_second"] for told in runs), 1),
                   "peak_rss_bytes": max(told["peak_rss_bytes"] for told in runs)}
