"""A database, topics and workers of its own, measured from outside."""
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import common
import confluent_kafka
import confluent_kafka.admin
import psycopg

SPAWN = common.TARGET / "release" / "spawn"


def until(what, seconds, done):
    """Waits for it; a bound keeps a broken run from hanging."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.1)


class Place:
    """`pipelines`: name -> lines of its section. `settings`: further sections. `start` adds a worker."""

    def __init__(self, pipelines, settings="", partitions=6):
        self.name = f"bench_{uuid.uuid4().hex[:12]}"
        admin = os.environ["DATABASE_URL"]
        self.admin = psycopg.connect(admin, autocommit=True)
        self.admin.execute(f"CREATE DATABASE {self.name}")
        self.url = admin.rsplit("/", 1)[0] + "/" + self.name
        self.folder = tempfile.TemporaryDirectory()
        self.port = 20_000 + os.getpid() % 10_000
        self.topics = [f"{self.name}.{pipeline}" for pipeline in pipelines]
        sections = "".join(f'[[pipeline]]\nname = "{pipeline}"\ntopic = "{self.name}.{pipeline}"\ncollection = "default"\n{lines}\n'
                           for pipeline, lines in pipelines.items())
        Path(self.folder.name, "spawn.toml").write_text(
            f'[kafka]\ngroup_prefix = "{self.name}"\n[fetch]\nfile_roots = "{common.DATA}"\n[metrics]\nlisten = "127.0.0.1:{self.port}"\n'
            + settings + "\n" + sections)
        self.environment = {**os.environ, "DATABASE_URL": self.url, "SPAWN_CONFIG": f"{self.folder.name}/spawn.toml"}
        subprocess.run([SPAWN, "migrate"], env=self.environment, check=True, capture_output=True)
        self.workers = []
        self.rows = psycopg.connect(self.url, autocommit=True)
        self.kafka = confluent_kafka.admin.AdminClient({"bootstrap.servers": os.environ["KAFKA_BROKERS"]})
        for future in self.kafka.create_topics([confluent_kafka.admin.NewTopic(topic, partitions, 1) for topic in self.topics]).values():
            future.result()
        self.producer = confluent_kafka.Producer({"bootstrap.servers": os.environ["KAFKA_BROKERS"], "linger.ms": 0})

    def start(self):
        """Only the first worker has the port of the metrics."""
        metrics = {"SPAWN__METRICS__LISTEN": ""} if self.workers else {}
        self.workers.append(subprocess.Popen([SPAWN, "worker"], env={**self.environment, **metrics}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def file(self, pipeline, name, path, partition):
        """Sends a file as an item of this name."""
        self.producer.produce(f"{self.name}.{pipeline}", json.dumps({"id": name, "uri": f"file://{path}"}).encode(), partition=partition)
        self.producer.poll(0)

    def count(self, pipeline):
        return self.rows.execute("SELECT count(*) FROM spawn.record r JOIN spawn.source s ON s.id = r.source WHERE s.pipeline = %s",
                                 [pipeline]).fetchone()[0]

    def audited(self, pipeline):
        """Results of a pipeline by a clean audit; another ends the run."""
        told = subprocess.run([SPAWN, "audit", "--json"], env=self.environment, capture_output=True, text=True)
        if told.returncode != 0:
            raise SystemExit(f"the audit found faults: {told.stdout[-2000:]} {told.stderr[-2000:]}")
        return sum(partition["results"] for partition in json.loads(told.stdout)["partitions"] if partition["pipeline"] == pipeline)

    def spent(self):
        """CPU seconds and the most memory of all workers together, so far."""
        told = [common.spent(worker.pid) for worker in self.workers]
        return {figure: sum(worker[figure] for worker in told) for figure in told[0]}

    def metric(self, name, part=""):
        """Sum of a metric of the first worker over the lines that hold `part`."""
        lines = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics").read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and part in line)

    def stop(self):
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait(20)

    def end(self):
        self.stop()
        self.producer.flush(10)
        self.rows.close()
        for future in self.kafka.delete_topics(self.topics).values():
            future.result()
        self.admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        self.admin.close()


class World(Place):
    """With one worker, and texts whose latency is measured. The first text is through when it is made."""

    def __init__(self, pipelines, settings=""):
        super().__init__(pipelines, settings)
        self.sent = {}
        self.start()
        self.text("warm")
        until("the first text", 60, lambda: self.count("text") == 1)

    def text(self, name):
        self.sent[name] = time.time()
        job = {"id": name, "text": f"{name}: a boat lies on the lake and nobody is in it"}
        self.producer.produce(f"{self.name}.text", json.dumps(job).encode())
        self.producer.poll(0)

    def texts(self, seconds, rate, first=0):
        """So many texts one by one, numbered from `first`, until all have a result."""
        started = time.monotonic()
        for i in range(seconds * rate):
            self.text(f"t{first + i}")
            time.sleep(max(0, started + (i + 1) / rate - time.monotonic()))
        until("all texts", 60, lambda: self.count("text") == len(self.sent))

    def latencies(self, skip=0):
        """Seconds from the producer to the begin of the result's transaction, ascending, without the first `skip` texts."""
        rows = self.rows.execute("SELECT event_id, extract(epoch FROM created_at)::float8 FROM spawn.result WHERE event_id LIKE 't%'").fetchall()
        return sorted(at - self.sent[name] for name, at in rows if int(name[1:]) >= skip)

    def accounted(self):
        """How many of the texts have no result by a clean audit."""
        return len(self.sent) - self.audited("text")
