-- How many train pairs two checkpoints have, and how many both; sides are made by the caller.
select
  (select count(*) from a) as num_a,
  (select count(*) from b) as num_b,
  (select count(*) from a join b using (pair_key)) as num_both
