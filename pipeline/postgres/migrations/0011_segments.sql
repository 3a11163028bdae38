-- Vectors in segments. Inserting into an HNSW index costs milliseconds a row, building one in parallel microseconds. So rows go into the
-- open segment, which has no such index and is compared row by row; a segment that is sealed gets its index, and takes no more rows.
-- A search merges what the indexes and the open segment find.
--
-- `embedding_<generation>` is the whole, partitioned by segment; `embedding_<generation>_s<segment>` are its parts, each with its own key.

-- The open one. All lower ones are sealed.
ALTER TABLE spawn.generation ADD COLUMN segment int NOT NULL DEFAULT 1;

-- Makes the table of a segment. Attaching an empty one holds up neither writers nor searches.
CREATE FUNCTION spawn.make_segment(p_generation int, p_segment int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE TABLE spawn.%1$I (LIKE spawn.%2$I INCLUDING STORAGE, PRIMARY KEY (item, chunk));
         ALTER TABLE spawn.%1$I ALTER COLUMN segment SET DEFAULT %3$s;
         ALTER TABLE spawn.%2$I ATTACH PARTITION spawn.%1$I FOR VALUES IN (%3$s)',
        format('embedding_%s_s%s', p_generation, p_segment), 'embedding_' || p_generation, p_segment);
END $$;

-- The table that rows of a generation are written to now.
CREATE FUNCTION spawn.open_segment(p_generation int) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('spawn.embedding_%s_s%s', g.id, g.segment) FROM spawn.generation g WHERE g.id = p_generation
$$;

-- Seals the open segment, if that is `p_segment`, and opens the next. Who reads the old number at this moment still writes to the old one.
CREATE FUNCTION spawn.seal(p_generation int, p_segment int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM spawn.generation g WHERE g.id = p_generation AND g.segment = p_segment FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM spawn.make_segment(p_generation, p_segment + 1);
        UPDATE spawn.generation g SET segment = p_segment + 1 WHERE g.id = p_generation;
    END IF;
END $$;

-- As before, with the vectors in segments.
CREATE OR REPLACE FUNCTION spawn.make_vectors(p_generation int, p_dimension int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_table text := 'embedding_' || p_generation;
BEGIN
    -- chunk -1 is the pooled vector of an item with several chunks.
    EXECUTE format(
        'CREATE TABLE spawn.%I (
            item    bigint NOT NULL,
            chunk   int    NOT NULL,
            segment int    NOT NULL,
            vector  halfvec(%s) NOT NULL) PARTITION BY LIST (segment)', v_table, p_dimension);
    -- Inline as long as a row fits into a page: reading vectors out of line makes exact search and the index build slower.
    IF p_dimension <= 4000 THEN
        EXECUTE format('ALTER TABLE spawn.%I ALTER COLUMN vector SET STORAGE PLAIN', v_table);
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE VIEW spawn.%I AS
         SELECT (substr(encode(r.id_hash, ''hex''), 1, 32)
                   || CASE WHEN e.chunk > 0 THEN ''#'' || e.chunk WHEN e.chunk < 0 THEN ''#pooled'' ELSE '''' END) AS langchain_id,
                coalesce(r.source_uri, r.event_id, '''') AS content,
                e.vector AS embedding,
                r.metadata || jsonb_build_object(''labels'', r.labels, ''facts'', r.facts, ''chunk'', e.chunk,
                    ''source_uri'', r.source_uri) AS langchain_metadata
           FROM spawn.%I e JOIN spawn.result r ON r.generation = %s AND r.item = e.item',
        'langchain_' || p_generation, v_table, p_generation);
    EXECUTE format(
        'CREATE OR REPLACE VIEW spawn.%I AS
         SELECT langchain_id AS id, content AS text, langchain_metadata AS metadata_, langchain_id AS node_id, embedding
           FROM spawn.%I', 'llamaindex_' || p_generation, 'langchain_' || p_generation);
    PERFORM spawn.make_segment(p_generation, 1);
END $$;

-- What is there becomes the first segment, sealed where it has its index.
DO $$
DECLARE
    v_id        int;
    v_dimension int;
    v_table     text;
BEGIN
    FOR v_id, v_dimension IN SELECT g.id, g.dimension FROM spawn.generation g LOOP
        v_table := 'embedding_' || v_id;
        EXECUTE format('ALTER TABLE spawn.%I RENAME TO %I', v_table, v_table || '_s0');
        EXECUTE format('ALTER TABLE spawn.%I ADD COLUMN segment int NOT NULL DEFAULT 0', v_table || '_s0');
        EXECUTE format('ALTER INDEX IF EXISTS spawn.%I RENAME TO %I', v_table || '_hnsw', v_table || '_s0_hnsw');
        PERFORM spawn.make_vectors(v_id, v_dimension);
        EXECUTE format('ALTER TABLE spawn.%I ATTACH PARTITION spawn.%I FOR VALUES IN (0)', v_table, v_table || '_s0');
    END LOOP;
END $$;

-- As before, with vectors in the open segment.
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
        -- Sorted, so that two writers with the same ids wait for each other in one direction only. Few units bring an id that is there, and a
        -- plain insert looks into the key once where ON CONFLICT looks twice.
        BEGIN
            INSERT INTO spawn.dedupe (generation, id_hash, content_hash, item)
            SELECT p_generation, r.id, r.content, r.item FROM unnest(r_id, r_content, v_item) AS r(id, content, item)
             WHERE r.item IS NOT NULL ORDER BY r.id;
        EXCEPTION WHEN unique_violation THEN
            -- Of two in one unit the first wins.
            INSERT INTO spawn.dedupe (generation, id_hash, content_hash, item)
            SELECT p_generation, r.id, r.content, r.item
              FROM unnest(r_id, r_content, v_item) WITH ORDINALITY AS r(id, content, item, row)
             WHERE r.item IS NOT NULL ORDER BY r.id, r.row
                ON CONFLICT DO NOTHING;
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
        END;

        INSERT INTO spawn.result (generation, item, id_hash, event_id, event_source, source_uri, metadata, facts, labels,
                                  content_hash, source, partition, "offset", key_hash)
        SELECT p_generation, r.item, r.id, r.event_id, r.event_source, r.source_uri, r.metadata::jsonb, r.facts::jsonb,
               r.labels::jsonb, r.content, p_source, r.partition, r."offset", r.key
          FROM unnest(v_outcome, v_item, r_id, r_event_id, r_event_source, r_source_uri, r_metadata, r_facts, r_labels, r_content,
                      r_partition, r_offset, r_key)
            AS r(outcome, item, id, event_id, event_source, source_uri, metadata, facts, labels, content, partition, "offset", key)
         WHERE r.outcome = 0;
        EXECUTE format(
            'INSERT INTO %s (item, chunk, vector)
             SELECT $4[c.row], c.chunk, c.vector FROM unnest($1, $2, $3) AS c(row, chunk, vector) WHERE $5[c.row] = 0',
            spawn.open_segment(p_generation))
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

-- As before, with vectors in the open segment.
CREATE OR REPLACE FUNCTION spawn.settle(
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
            EXECUTE format('INSERT INTO %s (item, chunk, vector) SELECT $1, c.chunk, c.vector FROM unnest($2, $3) AS c(chunk, vector)',
                           spawn.open_segment(p_generation))
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
