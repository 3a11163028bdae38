-- Claiming partitions and writing a commit unit.
--
-- Each is one statement for the client, so that it runs and commits without a word from it in between: a client that is frozen or
-- gone holds no lock. All bytes of a unit have arrived with the parameters before the function starts.
--
-- Errors of our own: SP001 an id came again with other content (DETAIL has the rows), SP002 the unit holds another number of
-- records than were polled, SP003 the end of a probe, SP004 another spec owns the source, SP005 the source is not there.

-- Raises the epoch of each partition and stores its new owner; answers where to read on.
CREATE FUNCTION spawn.claim(p_source int, p_spec_hash bytea, p_partition int[], p_first bigint[], p_token uuid[])
RETURNS TABLE (o_partition int, o_epoch bigint, o_position bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_source spawn.source;
BEGIN
    SELECT s.* INTO v_source FROM spawn.source s WHERE s.id = p_source;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'source % is not there any more', p_source USING ERRCODE = 'SP005';
    END IF;
    IF v_source.spec_hash <> p_spec_hash THEN
        RAISE EXCEPTION 'pipeline `%` has read topic `%` with another specification', v_source.pipeline, v_source.topic
            USING ERRCODE = 'SP004', DETAIL = v_source.spec;
    END IF;
    RETURN QUERY
        INSERT INTO spawn.checkpoint AS c (source, partition, first_offset, next_offset, owner_epoch, owner)
        SELECT p_source, w.partition, w.first, w.first, 1, w.token
          FROM unnest(p_partition, p_first, p_token) AS w(partition, first, token)
         ORDER BY w.partition
            ON CONFLICT (source, partition) DO UPDATE
           SET owner_epoch = c.owner_epoch + 1, owner = excluded.owner, claimed_at = now()
        RETURNING c.partition, c.owner_epoch, c.next_offset;
END $$;

-- Deletes what lower offsets of the same partition wrote for the keys of these rows.
CREATE FUNCTION spawn.bury(p_source int, p_generation int, p_partition int[], p_offset bigint[], p_key uuid[]) RETURNS void
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
END $$;

-- Writes one commit unit. Arrays that start with the same letter run in parallel:
--   s_ partitions of the unit with the claim that read them; r_ one per record, in order; c_ one per vector; l_ one per dead or
--   deferred letter; h_ one per header of a letter; t_row tombstones. `row` is the record's place in r_, from 1.
-- Answers one row per partition: state 0 written now, 1 written before (an answer was lost), 2 fenced; and its outcomes.
CREATE FUNCTION spawn.write_batch(
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
        INSERT INTO spawn.rejection (source, partition, "offset", stage, code, detail, id_hash, key, value, header_names,
                                     header_values, timestamp_ms)
        SELECT p_source, r_partition[l.row], r_offset[l.row], l.stage, v_reason[l.row], l.detail, r_id[l.row], l.key, l.value,
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

-- The last step of a write: spans and checkpoints of the live partitions, and the answer for all.
CREATE FUNCTION spawn.advance(
    p_source int, p_live int[],
    s_partition int[], s_from bigint[], s_to bigint[], s_epoch bigint[], s_token uuid[], s_records bigint[],
    r_partition int[], r_outcome smallint[])
RETURNS TABLE (o_partition int, o_state smallint, o_results bigint, o_rejected bigint, o_skipped bigint, o_deferred bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_wrong text;
BEGIN
    INSERT INTO spawn.span AS t (source, partition, from_position, to_position, kind, records, results, rejected, skipped, deferred)
    SELECT p_source, s.partition, s."from", s."to", CASE WHEN n.records IS NULL THEN 'eof' ELSE 'batch' END,
           coalesce(n.records, 0), coalesce(n.results, 0), coalesce(n.rejected, 0), coalesce(n.skipped, 0), coalesce(n.deferred, 0)
      FROM unnest(s_partition, s_from, s_to) AS s("partition", "from", "to")
      LEFT JOIN (
            SELECT r.partition, count(*) AS records, count(*) FILTER (WHERE r.outcome = 0) AS results,
                   count(*) FILTER (WHERE r.outcome = 1) AS rejected, count(*) FILTER (WHERE r.outcome = 2) AS skipped,
                   count(*) FILTER (WHERE r.outcome = 3) AS deferred
              FROM unnest(r_partition, r_outcome) AS r(partition, outcome) WHERE r.outcome >= 0 GROUP BY r.partition
      ) n ON n.partition = s.partition
     WHERE s.partition = ANY (p_live);

    UPDATE spawn.checkpoint c SET next_offset = s."to", deaths = 0
      FROM unnest(s_partition, s_to) AS s("partition", "to")
     WHERE c.source = p_source AND c.partition = s.partition AND s.partition = ANY (p_live);

    -- A partition that is ours and stands where the unit ends was written before: only the answer was lost.
    RETURN QUERY
        SELECT s.partition,
               (CASE WHEN s.partition = ANY (p_live) THEN 0 WHEN t.records IS NOT NULL THEN 1 ELSE 2 END)::smallint,
               coalesce(t.results, 0)::bigint, coalesce(t.rejected, 0)::bigint, coalesce(t.skipped, 0)::bigint,
               coalesce(t.deferred, 0)::bigint
          FROM unnest(s_partition, s_from, s_to, s_epoch, s_token) AS s("partition", "from", "to", epoch, token)
          JOIN spawn.checkpoint c ON c.source = p_source AND c.partition = s.partition
          LEFT JOIN spawn.span t ON t.source = p_source AND t.partition = s.partition AND t.from_position = s."from"
               AND t.to_position = s."to" AND c.owner_epoch = s.epoch AND c.owner = s.token AND c.next_offset = s."to";

    SELECT string_agg(format('partition %s holds %s of %s records', s.partition, t.records, s.records), ', ') INTO v_wrong
      FROM unnest(s_partition, s_from, s_records) AS s("partition", "from", records)
      JOIN spawn.span t ON t.source = p_source AND t.partition = s.partition AND t.from_position = s."from"
     WHERE s.partition = ANY (p_live) AND t.records <> s.records;
    IF v_wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the unit is incomplete: %', v_wrong USING ERRCODE = 'SP002';
    END IF;
END $$;
