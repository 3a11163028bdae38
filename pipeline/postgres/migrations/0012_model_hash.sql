-- Rows name a model by twelve digits of its hash. A generation keeps the whole hash, so that two models that share those digits
-- neither mix their vectors nor reuse each other's results.
--
-- Error of our own: SP008 the generation is another model's (DETAIL has its hash).
ALTER TABLE spawn.generation ADD COLUMN model_hash text;

-- The first worker that opens a generation with its model says the whole hash; all later ones must say the same. Of another model, as a
-- pipeline has after it was given one, the claim tells.
CREATE FUNCTION spawn.own_generation(p_generation int, p_model text, p_model_hash text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_hash text;
BEGIN
    UPDATE spawn.generation g SET model_hash = p_model_hash
     WHERE g.id = p_generation AND g.model = p_model AND g.model_hash IS NULL;
    SELECT g.model_hash INTO v_hash FROM spawn.generation g WHERE g.id = p_generation AND g.model = p_model;
    IF v_hash <> p_model_hash THEN
        RAISE EXCEPTION 'generation % was made by another model % with the same first digits of its hash: give one of them another name in model.toml',
            p_generation, p_model USING ERRCODE = 'SP008', DETAIL = v_hash;
    END IF;
END $$;

-- As before, with the whole hash.
CREATE OR REPLACE FUNCTION spawn.known(p_generation int, p_content bytea[])
RETURNS TABLE (o_content bytea, o_facts text, o_labels text, o_chunks int[], o_vectors halfvec[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_twin int;
BEGIN
    FOR v_twin IN
        SELECT g.id FROM spawn.generation g JOIN spawn.generation own ON own.id = p_generation
         WHERE (g.modality, g.model, g.model_hash, g.preparation, g.dtype, g.dimension)
             = (own.modality, own.model, own.model_hash, own.preparation, own.dtype, own.dimension)
         ORDER BY g.id <> own.id, g.id
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT r.content_hash, r.facts::text, r.labels::text, v.chunks, v.vectors
               FROM unnest($2) AS c(content)
              CROSS JOIN LATERAL (SELECT * FROM spawn.result r WHERE r.content_hash = c.content AND r.generation = $1 LIMIT 1) r
              CROSS JOIN LATERAL (SELECT array_agg(e.chunk ORDER BY e.chunk) AS chunks, array_agg(e.vector ORDER BY e.chunk) AS vectors
                                    FROM spawn.%I e WHERE e.item = r.item) v
              WHERE v.chunks IS NOT NULL', 'embedding_' || v_twin)
            USING v_twin, p_content;
    END LOOP;
END $$;
