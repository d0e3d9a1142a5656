-- The pairs (or labelled responses) that two mixtures have by content, by source and split; sides are made by the caller.
select
  a.source,
  a.split as split_a,
  b.split as split_b,
  count(distinct a.key) as num_shared,
  count(distinct a.key) filter (where a.source = b.source and a.file = b.file and a.row = b.row) as num_same_row
from a
join b using (key)
group by all
order by all
