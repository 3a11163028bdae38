"""The plain Python worker: confluent-kafka, an embedder of `python_models.py`, psycopg. One process.

`python_worker.py SETTINGS` with JSON: brokers, group, topic, partitions (those that this process reads), table, url, records, and what `embedder`
takes. Prints one JSON line when `records` rows of the table are there: how the model was loaded, and for each batch when it was begun, when its
rows were committed, and how many items it held.

Untuned it is what most people write: it subscribes, takes a batch, embeds, inserts, commits. Tuned, a thread takes and prepares the next
batches while the model is at work, rows go by binary COPY, and partitions are assigned by hand, so that no rebalance has records read twice.
"""

import json
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import confluent_kafka
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from python_models import embedder

AHEAD = 2  # batches that are prepared or wait to be


def ahead(take):
    """What `take` gives, in its order, taken by a thread that is at most `AHEAD` in front."""
    with ThreadPoolExecutor(1) as thread:
        taken = deque(thread.submit(take) for _ in range(AHEAD))
        while True:
            result = taken.popleft().result()
            taken.append(thread.submit(take))
            yield result


def consumer_of(settings):
    tuned = settings["tuned"]
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": settings["brokers"], "group.id": settings["group"], "auto.offset.reset": "earliest",
        "enable.auto.commit": False, **({"fetch.queue.backoff.ms": 2, "fetch.min.bytes": 1} if tuned else {})})
    if tuned:
        # The topic is new: nobody waits until the group's coordinator is found and says that nothing was committed.
        consumer.assign([confluent_kafka.TopicPartition(settings["topic"], partition, confluent_kafka.OFFSET_BEGINNING)
                         for partition in settings["partitions"]])
    else:
        consumer.subscribe([settings["topic"]])
    return consumer


def insert(connection, table, rows, tuned):
    """One transaction. Tuned: binary COPY; else what most people write."""
    with connection.transaction(), connection.cursor() as cursor:
        if not tuned:
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE "
                               "SET label = EXCLUDED.label, embedding = EXCLUDED.embedding",
                               [(i, label, str(vector.tolist())) for i, label, vector in rows])
            return
        cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS staging (LIKE {table}) ON COMMIT DELETE ROWS")
        with cursor.copy("COPY staging FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["text", "text", "halfvec"])
            for i, label, vector in rows:
                copy.write_row((i, label, HalfVector(vector)))
        cursor.execute(f"INSERT INTO {table} SELECT * FROM staging ON CONFLICT (id) DO UPDATE "
                       "SET label = EXCLUDED.label, embedding = EXCLUDED.embedding")


def behind(messages):
    """The offsets that say that these were read, and no message that was taken ahead."""
    last = {(message.topic(), message.partition()): message.offset() for message in messages}
    return [confluent_kafka.TopicPartition(topic, partition, offset + 1) for (topic, partition), offset in last.items()]


def main():
    settings = json.loads(sys.argv[1])
    embed = embedder(settings)
    connection = psycopg.connect(settings["url"], autocommit=True)
    register_vector(connection)
    consumer = consumer_of(settings)

    def take():
        taken = consumer.consume(settings["window"], timeout=0.5)
        for error in filter(None, (message.error() for message in taken)):
            print(f"kafka: {error}", file=sys.stderr)
        messages = [message for message in taken if not message.error()]
        return messages, embed.prepare([message.value() for message in messages]) if messages else None

    spans, idle, begun = [], 0, None
    for messages, prepared in ahead(take) if settings["tuned"] else iter(take, None):
        if not messages:
            count = connection.execute(f"SELECT count(*) FROM {settings['table']}").fetchone()[0]
            idle += 1
            if count >= settings["records"] or idle > 120:
                break
            continue
        idle, begun = 0, begun or time.time()
        rows = embed.infer(prepared)
        insert(connection, settings["table"], [(message.key().decode(), label, vector)
                                               for message, (vector, label) in zip(messages, rows, strict=True)], settings["tuned"])
        consumer.commit(offsets=behind(messages), asynchronous=False)
        spans.append([begun, time.time(), len(messages)])
        begun = spans[-1][1]
    print(json.dumps({"processes": [{"model": embed.variant, "spans": spans}]}))


if __name__ == "__main__":
    main()
