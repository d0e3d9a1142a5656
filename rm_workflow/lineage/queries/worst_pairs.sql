-- The test pairs of one source (or of all) on which a checkpoint prefers the rejected reply, by how much.
select
  pair_id,
  source,
  score_chosen,
  score_rejected,
  score_chosen - score_rejected as margin
from read_parquet($scores)
where score_chosen < score_rejected and ($source is null or source = $source)
order by margin, pair_id
limit $n
