-- How many partitions the topic had when its reading began. Those that it is given later hold only records that came later, so they are read
-- from their start, also where a reading begins at the end.
ALTER TABLE spawn.source ADD COLUMN partitions int;
UPDATE spawn.source s SET partitions = c.partitions
  FROM (SELECT source, max(partition) + 1 AS partitions FROM spawn.checkpoint GROUP BY source) c WHERE c.source = s.id;
