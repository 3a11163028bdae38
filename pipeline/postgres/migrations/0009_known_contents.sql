-- What was made of contents before. The index by content is made where somebody wants to look it up (reuse.enabled): it costs each write
-- another page.

-- One result of each content that a generation has which was made like `p_generation`: by the same model, preparation and number type, whatever
-- its collection.
CREATE FUNCTION spawn.known(p_generation int, p_content bytea[])
RETURNS TABLE (o_content bytea, o_facts text, o_labels text, o_chunks int[], o_vectors halfvec[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_twin int;
BEGIN
    FOR v_twin IN
        SELECT g.id FROM spawn.generation g JOIN spawn.generation own ON own.id = p_generation
         WHERE (g.modality, g.model, g.preparation, g.dtype, g.dimension)
             = (own.modality, own.model, own.preparation, own.dtype, own.dimension)
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
