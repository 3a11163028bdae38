-- Dead letters as a mailbox: replayed, purged, relayed to a topic; and deletion by key.
--
-- Errors of our own: SP008 a dead letter has no ledger row.

-- `key_hash` is that of redrive; `superseded_at` the offset of a later tombstone of the same key, or where the partition stood when an
-- operator deleted the key: a replay must not bring back what was deleted. `deliveries` is how often the record was tried.
-- `unpublishable` says why the relay left it out for good.
ALTER TABLE spawn.rejection
    ADD COLUMN key_hash      uuid,
    ADD COLUMN superseded_at bigint,
    ADD COLUMN deliveries    int NOT NULL DEFAULT 1,
    ADD COLUMN unpublishable text;
CREATE INDEX rejection_key ON spawn.rejection (key_hash) WHERE key_hash IS NOT NULL;
DROP INDEX spawn.rejection_unpublished;
CREATE INDEX rejection_unpublished ON spawn.rejection (id) WHERE NOT published AND purged_at IS NULL AND unpublishable IS NULL;
-- For retention: payloads by age.
CREATE INDEX rejection_payload ON spawn.rejection (first_failed_at) WHERE purged_at IS NULL;
CREATE INDEX rejection_code ON spawn.rejection (code, id);
-- For `spawn dlq show ID`.
CREATE INDEX rejection_item ON spawn.rejection (id_hash);

-- Who does a work that one process at a time should do. It saves double work; nothing depends on it for being right.
CREATE TABLE spawn.lease (
    name   text PRIMARY KEY,
    holder uuid NOT NULL,
    until  timestamptz NOT NULL
);

-- Takes or renews a lease; false while another holder has it.
CREATE FUNCTION spawn.take_lease(p_name text, p_holder uuid, p_for interval) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spawn.lease AS l (name, holder, until) VALUES (p_name, p_holder, now() + p_for)
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
     WHERE l.holder = excluded.holder OR l.until < now();
    RETURN FOUND;
END $$;

-- Turns dead letters into deferred records at their own offsets, due now: ledger, span counts and redrive change together. Answers how many
-- were still there with their bytes. `p_key` are the hashes of their keys, in the same order.
CREATE FUNCTION spawn.replay(p_id bigint[], p_key uuid[], p_give_up interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_moved  bigint;
    v_ledger bigint;
BEGIN
    -- The locks that writes and settlements take, in their order; what they did meanwhile is seen by the next statement.
    PERFORM 1 FROM spawn.checkpoint c
      WHERE EXISTS (SELECT 1 FROM spawn.rejection r WHERE r.id = ANY (p_id) AND r.source = c.source AND r.partition = c.partition)
      ORDER BY c.source, c.partition FOR UPDATE;
    WITH taken AS (
        DELETE FROM spawn.rejection r USING unnest(p_id, p_key) AS w(id, key)
         WHERE r.id = w.id AND r.purged_at IS NULL
        RETURNING r.*, w.key AS wanted_key
    ), moved AS (
        INSERT INTO spawn.redrive (source, partition, "offset", due_at, give_up_at, attempts, stage, code, detail, id_hash, key_hash,
                                   key, value, header_names, header_values, timestamp_ms, bytes, first_failed_at, superseded_at)
        SELECT t.source, t.partition, t."offset", now(), now() + p_give_up, 0, t.stage, t.code, t.detail, t.id_hash, t.wanted_key,
               t.key, t.value, t.header_names, t.header_values, t.timestamp_ms,
               coalesce(length(t.key), 0) + coalesce(length(t.value), 0), t.first_failed_at, t.superseded_at
          FROM taken t
        RETURNING source, partition, "offset"
    ), ledger AS (
        UPDATE spawn.record l SET outcome = 3 FROM moved m
         WHERE l.source = m.source AND l.partition = m.partition AND l."offset" = m."offset" AND l.outcome = 1
        RETURNING l.source, l.partition, l."offset"
    ), counted AS (
        UPDATE spawn.span t SET rejected = t.rejected - n.records, deferred = t.deferred + n.records
          FROM (SELECT f.source, f.partition, f.from_position, count(*) AS records
                  FROM (SELECT l.source, l.partition,
                               (SELECT max(s.from_position) FROM spawn.span s
                                 WHERE s.source = l.source AND s.partition = l.partition AND s.from_position <= l."offset") AS from_position
                          FROM ledger l) f
                 GROUP BY f.source, f.partition, f.from_position) n
         WHERE t.source = n.source AND t.partition = n.partition AND t.from_position = n.from_position
    )
    SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM ledger) INTO v_moved, v_ledger;
    IF v_moved <> v_ledger THEN
        RAISE EXCEPTION '% of % dead letters have no ledger row that says rejected; see `spawn audit`', v_moved - v_ledger, v_moved
            USING ERRCODE = 'SP008';
    END IF;
    RETURN v_moved;
END $$;

-- Deletes what records of a key on a topic wrote, in every generation, and keeps those that wait from being written. The ledger stays.
CREATE FUNCTION spawn.delete_key(
    p_topic text, p_partition int, p_key uuid, OUT o_results bigint, OUT o_vectors bigint, OUT o_deferred bigint, OUT o_rejected bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_source     int[] := ARRAY (SELECT s.id FROM spawn.source s WHERE s.topic = p_topic);
    v_generation int;
    v_items      bigint[];
    v_rows       bigint;
BEGIN
    o_results := 0;
    o_vectors := 0;
    -- A settlement of the same key is either seen whole, or will see that its record is superseded.
    PERFORM 1 FROM spawn.checkpoint c
      WHERE c.source = ANY (v_source) AND (p_partition IS NULL OR c.partition = p_partition)
      ORDER BY c.source, c.partition FOR UPDATE;
    FOR v_generation, v_items IN
        WITH gone AS (
            DELETE FROM spawn.result r
             WHERE r.key_hash = p_key AND r.source = ANY (v_source) AND (p_partition IS NULL OR r.partition = p_partition)
            RETURNING r.generation, r.id_hash, r.item
        ), forgotten AS (
            DELETE FROM spawn.dedupe d USING gone g WHERE d.generation = g.generation AND d.id_hash = g.id_hash
        )
        SELECT g.generation, array_agg(g.item) FROM gone g GROUP BY g.generation
    LOOP
        o_results := o_results + cardinality(v_items);
        EXECUTE format('DELETE FROM spawn.%I WHERE item = ANY($1)', 'embedding_' || v_generation) USING v_items;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        o_vectors := o_vectors + v_rows;
    END LOOP;
    UPDATE spawn.redrive r SET superseded_at = c.next_offset FROM spawn.checkpoint c
     WHERE r.key_hash = p_key AND r.source = ANY (v_source) AND (p_partition IS NULL OR r.partition = p_partition)
       AND c.source = r.source AND c.partition = r.partition AND r.superseded_at IS NULL;
    GET DIAGNOSTICS o_deferred = ROW_COUNT;
    UPDATE spawn.rejection r SET superseded_at = c.next_offset FROM spawn.checkpoint c
     WHERE r.key_hash = p_key AND r.source = ANY (v_source) AND (p_partition IS NULL OR r.partition = p_partition)
       AND c.source = r.source AND c.partition = r.partition AND r.superseded_at IS NULL;
    GET DIAGNOSTICS o_rejected = ROW_COUNT;
END $$;

-- As before, and marks dead letters too.
CREATE OR REPLACE FUNCTION spawn.bury(p_source int, p_generation int, p_partition int[], p_offset bigint[], p_key uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_items bigint[];
BEGIN
    WITH gone AS (
        DELETE FROM spawn.result r
         USING unnest(p_partition, p_offset, p_key) AS t(partition, "offset", key)
         WHERE r.key_hash = t.key AND r.source = p_source AND r.partition = t.partition AND r."offset" < t."offset"
        RETURNING r.generation, r.id_hash, r.item
    ), forgotten AS (
        DELETE FROM spawn.dedupe d USING gone g WHERE d.generation = g.generation AND d.id_hash = g.id_hash
    )
    SELECT array_agg(g.item) INTO v_items FROM gone g;
    IF v_items IS NOT NULL THEN
        EXECUTE format('DELETE FROM spawn.%I WHERE item = ANY($1)', 'embedding_' || p_generation) USING v_items;
    END IF;
    -- A deferred record keeps its row until the redrive ends it; it will find that its key is gone.
    UPDATE spawn.redrive r SET superseded_at = t."offset"
      FROM unnest(p_partition, p_offset, p_key) AS t(partition, "offset", key)
     WHERE r.source = p_source AND r.partition = t.partition AND r.key_hash = t.key AND r."offset" < t."offset";
    -- And a dead letter until somebody replays it.
    UPDATE spawn.rejection r SET superseded_at = t."offset"
      FROM unnest(p_partition, p_offset, p_key) AS t(partition, "offset", key)
     WHERE r.key_hash = t.key AND r.source = p_source AND r.partition = t.partition AND r."offset" < t."offset";
END $$;

-- As before, and gives dead letters the hash of their key.
CREATE OR REPLACE FUNCTION spawn.write_batch(
    p_source int, p_generation int, p_probe boolean,
    s_partition int[], s_from bigint[], s_to bigint[], s_epoch bigint[], s_token uuid[], s_records bigint[],
    r_partition int[], r_offset bigint[], r_outcome smallint[], r_reason text[], r_id bytea[], r_key uuid[],
    r_content bytea[], r_event_id text[], r_event_source text[], r_source_uri text[],
    r_metadata text[], r_facts text[], r_labels text[],
    c_row int[], c_chunk int[], c_vector halfvec[],
    l_row int[], l_stage text[], l_detail text[], l_key bytea[], l_value bytea[], l_timestamp bigint[],
    h_row int[], h_name text[], h_value bytea[],
    t_row int[], p_due interval, p_give_up interval)
RETURNS TABLE (o_partition int, o_state smallint, o_results bigint, o_rejected bigint, o_skipped bigint, o_deferred bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_live    int[];              -- partitions that still are the writer's and stand where the unit starts
    v_outcome smallint[] := r_outcome;
    v_reason  text[] := r_reason;
    v_item    bigint[];
    v_results bigint;
    v_new     bigint;
    v_clash   text;
    v_loser   record;
BEGIN
    IF p_probe THEN
        v_live := s_partition;
    ELSE
        -- In order, so that two writers of one source cannot wait for each other in a circle.
        PERFORM 1 FROM spawn.checkpoint c
          WHERE c.source = p_source AND c.partition = ANY (s_partition) ORDER BY c.partition FOR UPDATE;
        -- Only now, in a statement of its own: it sees what was committed while the lock was awaited.
        SELECT coalesce(array_agg(s.partition), '{}') INTO v_live
          FROM unnest(s_partition, s_from, s_epoch, s_token) AS s("partition", "from", epoch, token)
          JOIN spawn.checkpoint c ON c.source = p_source AND c.partition = s.partition
         WHERE c.owner_epoch = s.epoch AND c.owner = s.token AND c.next_offset = s."from";
        IF cardinality(v_live) < cardinality(s_partition) THEN
            SELECT array_agg(CASE WHEN r.partition = ANY (v_live) THEN r.outcome ELSE -1 END ORDER BY r.row)
              INTO v_outcome FROM unnest(r_partition, r_outcome) WITH ORDINALITY AS r(partition, outcome, row);
        END IF;
    END IF;

    IF cardinality(t_row) > 0 THEN
        PERFORM spawn.bury(p_source, p_generation, array_agg(r_partition[t.row]), array_agg(r_offset[t.row]),
                           array_agg(r_key[t.row]))
           FROM unnest(t_row) AS t(row) WHERE v_outcome[t.row] >= 0;
    END IF;

    SELECT count(*) INTO v_results FROM unnest(v_outcome) AS o WHERE o = 0;
    IF v_results > 0 THEN
        SELECT array_agg(CASE WHEN o = 0 THEN nextval('spawn.item') END) INTO v_item FROM unnest(v_outcome) AS o;
        -- Sorted, so that two writers with the same ids wait for each other in one direction only. Of two in one unit the first wins.
        INSERT INTO spawn.dedupe (generation, id_hash, content_hash, item)
        SELECT p_generation, r.id, r.content, r.item
          FROM unnest(r_id, r_content, v_item) WITH ORDINALITY AS r(id, content, item, row)
         WHERE r.item IS NOT NULL
         ORDER BY r.id, r.row
            ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS v_new = ROW_COUNT;
        IF v_new < v_results THEN
            -- A later statement again, to see the rows of whoever won.
            FOR v_loser IN
                SELECT r.row, d.content_hash IS DISTINCT FROM r.content AND d.item IS NOT NULL AS clash
                  FROM unnest(r_id, r_content, v_item) WITH ORDINALITY AS r(id, content, item, row)
                  LEFT JOIN spawn.dedupe d ON d.generation = p_generation AND d.id_hash = r.id
                 WHERE r.item IS NOT NULL AND d.item IS DISTINCT FROM r.item
            LOOP
                IF v_loser.clash THEN
                    v_clash := concat_ws(',', v_clash, v_loser.row);
                END IF;
                v_outcome[v_loser.row] := 2;
                v_reason[v_loser.row] := 'duplicate';
            END LOOP;
            IF v_clash IS NOT NULL THEN
                -- Their original bytes did not come along: the client sends the unit again with dead letters for them.
                RAISE EXCEPTION 'an id came again with other content' USING ERRCODE = 'SP001', DETAIL = v_clash;
            END IF;
        END IF;

        INSERT INTO spawn.result (generation, item, id_hash, event_id, event_source, source_uri, metadata, facts, labels,
                                  content_hash, source, partition, "offset", key_hash)
        SELECT p_generation, r.item, r.id, r.event_id, r.event_source, r.source_uri, r.metadata::jsonb, r.facts::jsonb,
               r.labels::jsonb, r.content, p_source, r.partition, r."offset", r.key
          FROM unnest(v_outcome, v_item, r_id, r_event_id, r_event_source, r_source_uri, r_metadata, r_facts, r_labels, r_content,
                      r_partition, r_offset, r_key)
            AS r(outcome, item, id, event_id, event_source, source_uri, metadata, facts, labels, content, partition, "offset", key)
         WHERE r.outcome = 0;
        EXECUTE format(
            'INSERT INTO spawn.%I (item, chunk, vector)
             SELECT $4[c.row], c.chunk, c.vector FROM unnest($1, $2, $3) AS c(row, chunk, vector) WHERE $5[c.row] = 0',
            'embedding_' || p_generation)
            USING c_row, c_chunk, c_vector, v_item, v_outcome;
    END IF;

    IF cardinality(l_row) > 0 THEN
        INSERT INTO spawn.rejection (source, partition, "offset", stage, code, detail, id_hash, key_hash, superseded_at, key, value,
                                     header_names, header_values, timestamp_ms)
        SELECT p_source, r_partition[l.row], r_offset[l.row], l.stage, v_reason[l.row], l.detail, r_id[l.row], r_key[l.row],
               -- A tombstone of its key that follows in the same unit was written before this row was there.
               (SELECT max(r_offset[t.row]) FROM unnest(t_row) AS t(row)
                 WHERE r_partition[t.row] = r_partition[l.row] AND r_key[t.row] = r_key[l.row] AND r_offset[t.row] > r_offset[l.row]),
               l.key, l.value,
               ARRAY (SELECT h.name FROM unnest(h_row, h_name) WITH ORDINALITY AS h(row, name, n) WHERE h.row = l.row ORDER BY h.n),
               ARRAY (SELECT h.value FROM unnest(h_row, h_value) WITH ORDINALITY AS h(row, value, n) WHERE h.row = l.row ORDER BY h.n),
               l.timestamp
          FROM unnest(l_row, l_stage, l_detail, l_key, l_value, l_timestamp) AS l(row, stage, detail, key, value, timestamp)
         WHERE v_outcome[l.row] = 1;
        INSERT INTO spawn.redrive (source, partition, "offset", due_at, give_up_at, stage, code, detail, id_hash, key_hash, key,
                                   value, header_names, header_values, timestamp_ms, bytes)
        SELECT p_source, r_partition[l.row], r_offset[l.row], now() + p_due, now() + p_give_up, l.stage, v_reason[l.row], l.detail,
               r_id[l.row], r_key[l.row], l.key, l.value,
               ARRAY (SELECT h.name FROM unnest(h_row, h_name) WITH ORDINALITY AS h(row, name, n) WHERE h.row = l.row ORDER BY h.n),
               ARRAY (SELECT h.value FROM unnest(h_row, h_value) WITH ORDINALITY AS h(row, value, n) WHERE h.row = l.row ORDER BY h.n),
               l.timestamp, coalesce(length(l.key), 0) + coalesce(length(l.value), 0)
          FROM unnest(l_row, l_stage, l_detail, l_key, l_value, l_timestamp) AS l(row, stage, detail, key, value, timestamp)
         WHERE v_outcome[l.row] = 3;
    END IF;

    IF p_probe THEN
        RAISE EXCEPTION 'probe done' USING ERRCODE = 'SP003';
    END IF;

    INSERT INTO spawn.record (source, partition, "offset", outcome, reason)
    SELECT p_source, r.partition, r."offset", r.outcome, r.reason
      FROM unnest(r_partition, r_offset, v_outcome, v_reason) AS r(partition, "offset", outcome, reason)
     WHERE r.outcome >= 0;

    RETURN QUERY SELECT * FROM spawn.advance(p_source, v_live, s_partition, s_from, s_to, s_epoch, s_token, s_records,
                                             r_partition, v_outcome);
END $$;
