-- Which topic it was that a pipeline read, and what an operator decided when it was not there any more.
--
-- Errors of our own: SP006 the topic was made anew, SP007 a decision that does not fit what is stored.

-- A reading that an operator has ended keeps its rows; the pipeline and topic are free for the next one.
ALTER TABLE spawn.source ADD COLUMN retired_at timestamptz;
ALTER TABLE spawn.source DROP CONSTRAINT source_pipeline_topic_key;
CREATE UNIQUE INDEX source_current ON spawn.source (pipeline, topic) WHERE retired_at IS NULL;

-- As before, but only a reading that was not ended is found.
CREATE OR REPLACE FUNCTION spawn.open_source(
    p_pipeline text, p_topic text, p_collection text, p_modality text, p_model text, p_preparation text, p_dtype text,
    p_dimension int, p_spec_hash bytea, p_spec text,
    OUT o_source int, OUT o_generation int)
LANGUAGE plpgsql AS $$
DECLARE
    v_collection int;
BEGIN
    -- Several processes start at once; they make the tables one after the other.
    PERFORM pg_advisory_xact_lock(hashtextextended('spawn.open_source', 0));
    SELECT s.id, s.generation INTO o_source, o_generation
      FROM spawn.source s WHERE s.pipeline = p_pipeline AND s.topic = p_topic AND s.retired_at IS NULL;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO spawn.collection (name) VALUES (p_collection) ON CONFLICT DO NOTHING;
    SELECT c.id INTO v_collection FROM spawn.collection c WHERE c.name = p_collection;
    SELECT g.id INTO o_generation FROM spawn.generation g
     WHERE g.collection = v_collection AND g.modality = p_modality AND g.model = p_model
       AND g.preparation = p_preparation AND g.dtype = p_dtype AND g.dimension = p_dimension;
    IF NOT FOUND THEN
        INSERT INTO spawn.generation (collection, modality, model, preparation, dtype, dimension, active)
        SELECT v_collection, p_modality, p_model, p_preparation, p_dtype, p_dimension,
               NOT EXISTS (SELECT 1 FROM spawn.generation g
                            WHERE g.collection = v_collection AND g.modality = p_modality AND g.active)
        RETURNING id INTO o_generation;
        PERFORM spawn.make_vectors(o_generation, p_dimension);
    END IF;
    INSERT INTO spawn.source (pipeline, topic, generation, spec_hash, spec)
    VALUES (p_pipeline, p_topic, o_generation, p_spec_hash, p_spec)
    RETURNING id INTO o_source;
END $$;

-- The claim with the topic's id: the first one that brings an id stores it, later ones must bring the same. Without an id (the brokers
-- tell none) nothing is compared.
CREATE FUNCTION spawn.claim(
    p_source int, p_spec_hash bytea, p_partition int[], p_first bigint[], p_token uuid[], p_topic_id text)
RETURNS TABLE (o_partition int, o_epoch bigint, o_position bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_source spawn.source;
BEGIN
    UPDATE spawn.source s SET topic_id = p_topic_id
     WHERE s.id = p_source AND s.topic_id IS NULL AND p_topic_id IS NOT NULL;
    -- Not while an operator ends this reading.
    SELECT s.* INTO v_source FROM spawn.source s WHERE s.id = p_source FOR SHARE;
    IF v_source.retired_at IS NOT NULL THEN
        RAISE EXCEPTION 'an operator has ended this reading of topic `%`: start the worker again to begin the next one', v_source.topic
            USING ERRCODE = 'SP005';
    END IF;
    IF v_source.topic_id <> p_topic_id THEN
        RAISE EXCEPTION 'topic `%` was made anew', v_source.topic USING ERRCODE = 'SP006', DETAIL = v_source.topic_id;
    END IF;
    RETURN QUERY SELECT * FROM spawn.claim(p_source, p_spec_hash, p_partition, p_first, p_token);
END $$;

-- Writes off what retention has taken: everything from the checkpoint to the first offset that the topic still has.
CREATE FUNCTION spawn.accept_gap(
    p_pipeline text, p_topic text, p_topic_id text, p_partition int, p_low bigint, OUT o_from bigint, OUT o_to bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_source spawn.source;
    v_at     spawn.checkpoint;
BEGIN
    SELECT s.* INTO v_source FROM spawn.source s
     WHERE s.pipeline = p_pipeline AND s.topic = p_topic AND s.retired_at IS NULL FOR SHARE;
    -- The offsets of another topic say nothing about this reading.
    IF v_source.topic_id <> p_topic_id THEN
        RAISE EXCEPTION 'topic `%` was made anew: its id was % and is %; run `spawn pipelines adopt-topic`', p_topic,
            v_source.topic_id, p_topic_id USING ERRCODE = 'SP006';
    END IF;
    SELECT c.* INTO v_at FROM spawn.checkpoint c
     WHERE c.source = v_source.id AND c.partition = p_partition FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline `%` has never read partition % of topic `%`', p_pipeline, p_partition, p_topic
            USING ERRCODE = 'SP007';
    END IF;
    IF v_at.next_offset >= p_low THEN
        RAISE EXCEPTION 'nothing is lost: partition % of topic `%` is read up to % and its first record is %',
            p_partition, p_topic, v_at.next_offset, p_low USING ERRCODE = 'SP007';
    END IF;
    o_from := v_at.next_offset;
    o_to := p_low;
    INSERT INTO spawn.span (source, partition, from_position, to_position, kind, records, results, rejected, skipped, deferred, reason)
    VALUES (v_at.source, p_partition, o_from, o_to, 'gap', 0, 0, 0, 0, 0, 'retention');
    -- Whoever reads it now stands elsewhere and claims it again.
    UPDATE spawn.checkpoint c SET next_offset = o_to, owner_epoch = c.owner_epoch + 1, owner = gen_random_uuid(), deaths = 0
     WHERE c.source = v_at.source AND c.partition = p_partition;
END $$;

-- Ends the reading of a topic and begins that of another one of the same name, or of the same one that was cut. What was left of the old one is written off without an
-- end: nobody can say any more how far it went.
CREATE FUNCTION spawn.adopt_topic(
    p_pipeline text, p_topic text, p_topic_id text, p_partition int[], p_end bigint[],
    OUT o_topic_id text, OUT o_partition int[], OUT o_from bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    v_endless CONSTANT bigint := 9223372036854775807;
    v_source  spawn.source;
    v_reason  text := 'topic.recreated';
BEGIN
    SELECT s.* INTO v_source FROM spawn.source s
     WHERE s.pipeline = p_pipeline AND s.topic = p_topic AND s.retired_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline `%` has never read topic `%`', p_pipeline, p_topic USING ERRCODE = 'SP007';
    END IF;
    o_topic_id := v_source.topic_id;
    -- In the order in which writes lock them.
    PERFORM 1 FROM spawn.checkpoint c WHERE c.source = v_source.id ORDER BY c.partition FOR UPDATE;
    IF v_source.topic_id = p_topic_id THEN
        v_reason := 'topic.truncated';
        IF NOT EXISTS (
            SELECT 1 FROM spawn.checkpoint c LEFT JOIN unnest(p_partition, p_end) AS e(partition, "end") ON e.partition = c.partition
             WHERE c.source = v_source.id AND c.next_offset > coalesce(e."end", -1))
        THEN
            RAISE EXCEPTION 'nothing to adopt: topic `%` is the one that was read, and has all that was read', p_topic
                USING ERRCODE = 'SP007';
        END IF;
    END IF;
    SELECT array_agg(c.partition ORDER BY c.partition), array_agg(c.next_offset ORDER BY c.partition) INTO o_partition, o_from
      FROM spawn.checkpoint c WHERE c.source = v_source.id;
    INSERT INTO spawn.span (source, partition, from_position, to_position, kind, records, results, rejected, skipped, deferred, reason)
    SELECT c.source, c.partition, c.next_offset, v_endless, 'gap', 0, 0, 0, 0, 0, v_reason
      FROM spawn.checkpoint c WHERE c.source = v_source.id;
    UPDATE spawn.checkpoint c SET next_offset = v_endless, owner_epoch = c.owner_epoch + 1, owner = gen_random_uuid(), deaths = 0
     WHERE c.source = v_source.id;
    UPDATE spawn.source s SET retired_at = now() WHERE s.id = v_source.id;
    INSERT INTO spawn.source (pipeline, topic, topic_id, generation, spec_hash, spec, paused)
    VALUES (p_pipeline, p_topic, p_topic_id, v_source.generation, v_source.spec_hash, v_source.spec, v_source.paused);
END $$;
