-- The tables. Everything lives in schema `spawn`, which the migrator has made already.
--
-- Reading order: who reads what (source, generation), how far (checkpoint, span), what became of each record (record), and
-- what was written (dedupe, result, embedding_<generation>, rejection, redrive).

CREATE EXTENSION IF NOT EXISTS vector;

-- Rows that may be found together: the namespace in which an item has one result per generation.
CREATE TABLE spawn.collection (
    id   int  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- What one model makes with one preparation and one number type. A new model fills a new generation beside the old one.
CREATE TABLE spawn.generation (
    id          int  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection  int  NOT NULL REFERENCES spawn.collection,
    modality    text NOT NULL CHECK (modality IN ('image', 'audio', 'text')),
    model       text NOT NULL,
    preparation text NOT NULL,
    dtype       text NOT NULL,
    dimension   int  NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    active      boolean NOT NULL DEFAULT false,
    state       text NOT NULL DEFAULT 'filling' CHECK (state IN ('filling', 'sealed', 'retired')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (collection, modality, model, preparation, dtype, dimension)
);
-- Searches and results follow exactly one generation of each collection and modality.
CREATE UNIQUE INDEX generation_active ON spawn.generation (collection, modality) WHERE active;

-- A topic as one pipeline reads it. `spec_hash` fixes what it is turned into: two binaries cannot mix models.
CREATE TABLE spawn.source (
    id         int   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline   text  NOT NULL,
    topic      text  NOT NULL,
    topic_id   text,
    generation int   NOT NULL REFERENCES spawn.generation,
    spec_hash  bytea NOT NULL,
    spec       text  NOT NULL,
    paused     boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (pipeline, topic)
);

-- How far each partition is, and who may move it on. Updated by every write: free space in the page and no further index keep
-- that a heap-only update.
CREATE TABLE spawn.checkpoint (
    source       int    NOT NULL REFERENCES spawn.source,
    partition    int    NOT NULL CHECK (partition >= 0),
    first_offset bigint NOT NULL CHECK (first_offset >= 0),
    next_offset  bigint NOT NULL,
    owner_epoch  bigint NOT NULL,
    owner        uuid   NOT NULL,
    deaths       int    NOT NULL DEFAULT 0,
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, partition),
    CHECK (next_offset >= first_offset)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- What each transaction settled: `[from_position, to_position)` of positions. The spans of a partition tile
-- `[first_offset, next_offset)`. `records` is the poll thread's count; the outcomes are the ledger's.
CREATE TABLE spawn.span (
    source        int    NOT NULL REFERENCES spawn.source,
    partition     int    NOT NULL,
    from_position bigint NOT NULL,
    to_position   bigint NOT NULL,
    kind          text   NOT NULL CHECK (kind IN ('batch', 'eof', 'gap')),
    records       int    NOT NULL,
    results       int    NOT NULL,
    rejected      int    NOT NULL,
    skipped       int    NOT NULL,
    deferred      int    NOT NULL,
    reason        text,
    written_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, partition, from_position),
    CHECK (to_position > from_position),
    CHECK (records = results + rejected + skipped + deferred)
);

-- The ledger: one narrow row per record, which no deletion touches.
-- outcome: 0 result, 1 rejected, 2 skipped, 3 deferred; reason: the rejection's code or why it was skipped.
CREATE TABLE spawn.record (
    source    int      NOT NULL,
    partition int      NOT NULL,
    "offset"  bigint   NOT NULL,
    outcome   smallint NOT NULL CHECK (outcome BETWEEN 0 AND 3),
    reason    text,
    PRIMARY KEY (source, partition, "offset")
);

CREATE SEQUENCE spawn.item AS bigint;

-- Which item has a result. The only index on a random key that a write has to keep; public ids are its prefix.
CREATE TABLE spawn.dedupe (
    generation   int    NOT NULL,
    id_hash      bytea  NOT NULL,
    content_hash bytea  NOT NULL,
    item         bigint NOT NULL,
    PRIMARY KEY (generation, id_hash)
);

-- One row per item and generation. Model, preparation and number type are those of the generation. `item` rises in the order of
-- writing and never leaves the database.
CREATE TABLE spawn.result (
    generation   int    NOT NULL,
    item         bigint NOT NULL,
    id_hash      bytea  NOT NULL,
    event_id     text,
    event_source text   NOT NULL,
    source_uri   text,
    metadata     jsonb  NOT NULL,
    facts        jsonb  NOT NULL,
    labels       jsonb  NOT NULL,
    content_hash bytea  NOT NULL,
    source       int    NOT NULL,
    partition    int    NOT NULL,
    "offset"     bigint NOT NULL,
    key_hash     uuid,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (generation, item)
);
-- For tombstones.
CREATE INDEX result_key ON spawn.result (key_hash) WHERE key_hash IS NOT NULL;

-- Dead letters. Key, value and headers are the original bytes, so that a replay is byte-identical. The payload may be purged
-- (`purged_at`); the ledger row stays.
CREATE TABLE spawn.rejection (
    id              bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source          int      NOT NULL,
    partition       int      NOT NULL,
    "offset"        bigint   NOT NULL,
    stage           text     NOT NULL,
    code            text     NOT NULL,
    detail          text     NOT NULL,
    id_hash         bytea    NOT NULL,
    key             bytea,
    value           bytea,
    header_names    text[]   NOT NULL,
    header_values   bytea[]  NOT NULL,
    timestamp_ms    bigint   NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT now(),
    published       boolean  NOT NULL DEFAULT false,
    purged_at       timestamptz,
    UNIQUE (source, partition, "offset")
);
CREATE INDEX rejection_unpublished ON spawn.rejection (id) WHERE NOT published;

-- Deferred records with their bytes, to be tried again outside the line until `give_up_at`. `superseded_at` is the offset of a
-- later tombstone of the same key.
CREATE TABLE spawn.redrive (
    source          int      NOT NULL,
    partition       int      NOT NULL,
    "offset"        bigint   NOT NULL,
    due_at          timestamptz NOT NULL,
    give_up_at      timestamptz NOT NULL,
    attempts        int      NOT NULL DEFAULT 0,
    stage           text     NOT NULL,
    code            text     NOT NULL,
    detail          text     NOT NULL,
    id_hash         bytea    NOT NULL,
    key_hash        uuid,
    key             bytea,
    value           bytea,
    header_names    text[]   NOT NULL,
    header_values   bytea[]  NOT NULL,
    timestamp_ms    bigint   NOT NULL,
    bytes           bigint   NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT now(),
    superseded_at   bigint,
    PRIMARY KEY (source, partition, "offset")
);
CREATE INDEX redrive_due ON spawn.redrive (due_at);
