-- A page of the scored test pairs, the most wrong first; the caller names where they lie.
select
  pair_id,
  source,
  score_chosen,
  score_rejected,
  score_chosen - score_rejected as margin
from {scored}
order by margin, pair_id
limit $limit
offset $offset
