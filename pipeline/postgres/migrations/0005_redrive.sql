-- Deferred records: taken for another try outside the line, and settled in place.
--
-- A row of `redrive` is the right to settle: whoever deletes it, under the partition's lock, has settled the record. A taker only pushes
-- `due_at` forward (its lease) and holds no lock while it works. One that dies loses nothing: its lease ends, and another takes the row.

-- Takers ask for the due rows of one source.
DROP INDEX spawn.redrive_due;
CREATE INDEX redrive_due ON spawn.redrive (source, due_at);

-- Takes rows that are due, oldest first, at most so many and of so many bytes together (a larger one goes alone). None while the source
-- is paused.
CREATE FUNCTION spawn.take_deferred(p_source int, p_records int, p_bytes bigint, p_lease interval)
RETURNS SETOF spawn.redrive
LANGUAGE sql AS $$
    WITH due AS MATERIALIZED (
        SELECT d.partition, d."offset", d.due_at, d.bytes FROM spawn.redrive d
         WHERE d.source = p_source AND d.due_at <= now()
           AND NOT EXISTS (SELECT 1 FROM spawn.source s WHERE s.id = p_source AND s.paused)
         ORDER BY d.due_at LIMIT p_records FOR UPDATE OF d SKIP LOCKED
    ), fitting AS (
        SELECT f.partition, f."offset" FROM (
            SELECT u.*, sum(u.bytes) OVER w AS filled, row_number() OVER w AS place
              FROM due u WINDOW w AS (ORDER BY u.due_at, u.partition, u."offset")) f
         WHERE f.filled <= p_bytes OR f.place = 1
    )
    UPDATE spawn.redrive r SET due_at = now() + p_lease
      FROM fitting f
     WHERE r.source = p_source AND r.partition = f.partition AND r."offset" = f."offset"
    RETURNING r.*
$$;

-- Settles one deferred record, or puts it off again. Its ledger row, the counts of its span, its result or dead letter and the end of its
-- redrive row become visible together. Answers what became of it; no outcome when somebody else has settled it.
-- p_outcome: 0 result, 1 rejected, 2 skipped, 3 failed again. p_reason: the code, or why it was skipped.
CREATE FUNCTION spawn.settle(
    p_source int, p_generation int, p_partition int, p_offset bigint,
    p_outcome smallint, p_reason text, p_stage text, p_detail text,
    p_content bytea, p_event_id text, p_event_source text, p_source_uri text, p_metadata text, p_facts text, p_labels text,
    c_chunk int[], c_vector halfvec[], p_delay interval, p_delay_max interval,
    OUT o_outcome smallint, OUT o_reason text)
LANGUAGE plpgsql AS $$
DECLARE
    v_row    spawn.redrive;
    v_item   bigint;
    v_winner record;
    v_stage  text := p_stage;
    v_detail text := p_detail;
BEGIN
    -- The lock that a write of this partition takes: a tombstone is either written already, and has marked the row, or will find the result.
    PERFORM 1 FROM spawn.checkpoint c WHERE c.source = p_source AND c.partition = p_partition FOR UPDATE;
    SELECT d.* INTO v_row FROM spawn.redrive d
      JOIN spawn.record l ON l.source = d.source AND l.partition = d.partition AND l."offset" = d."offset" AND l.outcome = 3
     WHERE d.source = p_source AND d.partition = p_partition AND d."offset" = p_offset FOR UPDATE OF d;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    o_outcome := p_outcome;
    o_reason := p_reason;

    IF v_row.superseded_at IS NOT NULL AND p_outcome <> 1 THEN
        o_outcome := 2;
        o_reason := 'superseded';
    ELSIF p_outcome = 3 AND v_row.give_up_at <= now() THEN
        o_outcome := 1;
    ELSIF p_outcome = 3 THEN
        -- Doubling, and between half and all of it, so that what failed together does not come back together.
        UPDATE spawn.redrive d
           SET attempts = d.attempts + 1, stage = p_stage, code = p_reason, detail = p_detail,
               due_at = least(d.give_up_at, now() + (0.5 + random() / 2) * least(p_delay_max, p_delay * 2 ^ least(d.attempts + 1, 30)))
         WHERE d.source = p_source AND d.partition = p_partition AND d."offset" = p_offset;
        RETURN;
    ELSIF p_outcome = 0 THEN
        v_item := nextval('spawn.item');
        INSERT INTO spawn.dedupe (generation, id_hash, content_hash, item)
        VALUES (p_generation, v_row.id_hash, p_content, v_item) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT d.content_hash, r.source = p_source AND r.partition = p_partition AND r."offset" > p_offset AS later INTO v_winner
              FROM spawn.dedupe d LEFT JOIN spawn.result r ON r.generation = d.generation AND r.item = d.item
             WHERE d.generation = p_generation AND d.id_hash = v_row.id_hash;
            IF v_winner.content_hash IS NOT DISTINCT FROM p_content OR v_winner.content_hash IS NULL THEN
                o_outcome := 2;
                o_reason := 'duplicate';
            ELSIF v_winner.later THEN
                -- A later record of the item overtook this one while it waited.
                o_outcome := 2;
                o_reason := 'superseded';
            ELSE
                o_outcome := 1;
                o_reason := 'id.conflict';
                v_stage := 'store';
                v_detail := 'this source and id came before with other content, which was kept';
            END IF;
        ELSE
            INSERT INTO spawn.result (generation, item, id_hash, event_id, event_source, source_uri, metadata, facts, labels,
                                      content_hash, source, partition, "offset", key_hash)
            VALUES (p_generation, v_item, v_row.id_hash, p_event_id, p_event_source, p_source_uri, p_metadata::jsonb, p_facts::jsonb,
                    p_labels::jsonb, p_content, p_source, p_partition, p_offset, v_row.key_hash);
            EXECUTE format('INSERT INTO spawn.%I (item, chunk, vector) SELECT $1, c.chunk, c.vector FROM unnest($2, $3) AS c(chunk, vector)',
                           'embedding_' || p_generation)
                USING v_item, c_chunk, c_vector;
        END IF;
    END IF;

    IF o_outcome = 1 THEN
        INSERT INTO spawn.rejection (source, partition, "offset", stage, code, detail, id_hash, key, value, header_names,
                                     header_values, timestamp_ms, first_failed_at, key_hash, superseded_at, deliveries)
        VALUES (p_source, p_partition, p_offset, v_stage, o_reason, v_detail, v_row.id_hash, v_row.key, v_row.value,
                v_row.header_names, v_row.header_values, v_row.timestamp_ms, v_row.first_failed_at, v_row.key_hash,
                v_row.superseded_at, v_row.attempts + 2);
    END IF;
    DELETE FROM spawn.redrive d WHERE d.source = p_source AND d.partition = p_partition AND d."offset" = p_offset;
    UPDATE spawn.record l SET outcome = o_outcome, reason = o_reason
     WHERE l.source = p_source AND l.partition = p_partition AND l."offset" = p_offset;
    UPDATE spawn.span t
       SET deferred = t.deferred - 1, results = t.results + (o_outcome = 0)::int, rejected = t.rejected + (o_outcome = 1)::int,
           skipped = t.skipped + (o_outcome = 2)::int
     WHERE t.source = p_source AND t.partition = p_partition
       AND t.from_position = (SELECT max(s.from_position) FROM spawn.span s
                               WHERE s.source = p_source AND s.partition = p_partition AND s.from_position <= p_offset);
END $$;
