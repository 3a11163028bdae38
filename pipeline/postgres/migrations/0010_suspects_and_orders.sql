-- How often a deferred record was taken since its last try, to find out which of them kill their takers; and whose word it was that a pipeline
-- goes on.

ALTER TABLE spawn.redrive ADD COLUMN takes int NOT NULL DEFAULT 0, ADD COLUMN taken_attempts int;
ALTER TABLE spawn.source ADD COLUMN resumed_by_operator boolean NOT NULL DEFAULT false;

-- Leases deferred records that are due, in the order of `due_at`, together at most so many bytes; a larger one alone. `takes` counts those
-- after which nothing was settled.
CREATE OR REPLACE FUNCTION spawn.take_deferred(p_source int, p_records int, p_bytes bigint, p_lease interval)
RETURNS SETOF spawn.redrive
LANGUAGE sql AS $$
    WITH due AS MATERIALIZED (
        SELECT d.partition, d."offset", d.due_at, d.bytes FROM spawn.redrive d
         WHERE d.source = p_source AND d.due_at <= now()
           AND NOT EXISTS (SELECT 1 FROM spawn.source s WHERE s.id = p_source AND s.paused)
         ORDER BY d.due_at, d.partition, d."offset" LIMIT p_records FOR UPDATE OF d SKIP LOCKED
    ), fitting AS (
        SELECT f.partition, f."offset" FROM (
            SELECT u.*, sum(u.bytes) OVER w AS filled, row_number() OVER w AS place
              FROM due u WINDOW w AS (ORDER BY u.due_at, u.partition, u."offset")) f
         WHERE f.filled <= p_bytes OR f.place = 1
    )
    UPDATE spawn.redrive r
       SET due_at = now() + p_lease, takes = CASE WHEN r.taken_attempts = r.attempts THEN r.takes + 1 ELSE 1 END, taken_attempts = r.attempts
      FROM fitting f
     WHERE r.source = p_source AND r.partition = f.partition AND r."offset" = f."offset"
    RETURNING r.*
$$;
