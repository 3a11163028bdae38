-- Why a pipeline stands still, and since when. `paused_probe` is the partition whose owner tries now and then whether things are well again;
-- without one only an operator may resume.
ALTER TABLE spawn.source ADD COLUMN paused_reason text, ADD COLUMN paused_at timestamptz, ADD COLUMN paused_probe int;
