-- The worst pairs with the raw row that they come from; the caller names where the pairs lie.
select
  worst.*,
  pairs.file,
  pairs.row,
  pairs.prompt_id,
  pairs.chosen_id,
  pairs.rejected_id
from worst
join pairs using (pair_id)
