-- The prompts of some pairs; the caller names the pairs and where they lie. Sources may hold the same prompt.
with placed as (
  select pair_id, prompt_id
  from {pairs}
  where pair_id in ({ids})
)

select placed.pair_id, any_value(prompts.messages) as messages
from placed
join {prompts} as prompts using (prompt_id)
group by placed.pair_id
