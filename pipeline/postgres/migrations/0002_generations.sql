-- Making a pipeline's rows: its collection, its generation with a vector table of its own, its source.

-- The vector table of a generation, and views of it in the shapes that LangChain and LlamaIndex read.
CREATE FUNCTION spawn.make_vectors(p_generation int, p_dimension int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_table text := 'embedding_' || p_generation;
BEGIN
    -- chunk -1 is the pooled vector of an item with several chunks.
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS spawn.%I (
            item   bigint NOT NULL,
            chunk  int    NOT NULL,
            vector halfvec(%s) NOT NULL,
            PRIMARY KEY (item, chunk))', v_table, p_dimension);
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
END $$;

-- Finds or makes everything that a pipeline writes to. Answers the spec that the source has, which may be another one: then the
-- claim will be refused, and no generation is made for it.
CREATE FUNCTION spawn.open_source(
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
      FROM spawn.source s WHERE s.pipeline = p_pipeline AND s.topic = p_topic;
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

-- Lets results and searches follow another generation of the same collection and modality. The way back is the same call.
CREATE FUNCTION spawn.activate(p_generation int) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_old int;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('spawn.open_source', 0));
    UPDATE spawn.generation g SET active = false
      FROM spawn.generation n
     WHERE n.id = p_generation AND g.collection = n.collection AND g.modality = n.modality AND g.active;
    UPDATE spawn.generation g SET active = true WHERE g.id = p_generation;
    RETURN FOUND;
END $$;
