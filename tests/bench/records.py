"""Topics full of records that look like items."""
import os

import confluent_kafka
import confluent_kafka.admin


def fill(brokers, topic, size, count):
    """A topic of one partition with `count` records of `size` random bytes. Returns the client that can delete it."""
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": brokers})
    new = confluent_kafka.admin.NewTopic(topic, 1, 1, config={"max.message.bytes": "33554432"})
    for future in admin.create_topics([new]).values():
        future.result()
    producer = confluent_kafka.Producer({"bootstrap.servers": brokers, "linger.ms": 20, "batch.size": 1_000_000, "message.max.bytes": 33_554_432, "queue.buffering.max.kbytes": 100_000})
    body = os.urandom(size)
    for n in range(count):
        headers = {"ce_specversion": "1.0", "ce_id": str(n), "ce_source": "bench", "ce_type": "bench.item", "content-type": "image/jpeg"}
        while True:
            try:
                producer.produce(topic, body, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120):
        raise SystemExit("not everything was delivered")
    return admin
